"""Celery's door: `celery --app app.tasks` finds the worker's application and its task here."""

from app.serving.worker.celery_app import celery_app, invoke_predict

__all__ = ["celery_app", "invoke_predict"]
