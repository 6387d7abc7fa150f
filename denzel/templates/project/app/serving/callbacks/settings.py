def check_settings(settings):
    pass
