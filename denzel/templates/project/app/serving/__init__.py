from app.serving.running_task import current_task, progress

__all__ = ["current_task", "progress"]
