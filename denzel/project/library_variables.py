"""Names of environment variables that libraries and a user's own code read, apart from misspelt settings."""

from __future__ import annotations

import re

_OF_LIBRARIES = re.compile(
    "(OMP|MKL|OPENBLAS|BLIS|GOTO|NUMEXPR|VECLIB|KMP|LOKY|JOBLIB|RAYON|POLARS|NUMBA|TBB|HF|HUGGING|TRANSFORMERS|TORCH"
    "|PYTORCH|CUDA|NVIDIA|NCCL|TF|TENSORFLOW|KERAS|XLA|JAX|TOKENIZERS|SENTENCE|AWS|AZURE|GOOGLE|GCP|GCS|S3|MINIO"
    "|OPENAI|ANTHROPIC|COHERE|MISTRAL|MLFLOW|WANDB|NEPTUNE|COMET|CLEARML|OPENCV|NLTK|SPACY|SENTRY|OTEL|PIP|UV|PYTHON"
    "|LD|MALLOC|DATABASE|DB|PG|POSTGRES|MYSQL|MONGO|HTTPS?_PROXY|NO_PROXY|ALL_PROXY|XDG|LC)(_|[A-Z]*$)"
    "|TZ$|LANG$|.*_(TOKEN|API_KEY|SECRET|SECRET_KEY|ACCESS_KEY|CREDENTIALS|DSN|ENDPOINT|NUM_THREADS|MAX_THREADS)$"
)


def is_of_a_library(name: str) -> bool:
    """True for a name that is surely none of a setting of denzel's."""
    return _OF_LIBRARIES.match(name) is not None
