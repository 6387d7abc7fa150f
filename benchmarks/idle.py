"""Cost of a launched project at rest: CPU and memory of each service, with health checks.

Usage: python benchmarks/idle.py PROJECT_NAME [SECONDS], by default 60 seconds; the services run on Docker.
"""

from __future__ import annotations

import sys
import time

import docker


def usage(container: docker.models.containers.Container) -> tuple[float, float]:
    """CPU seconds so far, and resident MB."""
    stats = container.stats(stream=False)
    memory = stats["memory_stats"]
    cached = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))
    return stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9, (memory["usage"] - cached) / 2**20


def main(project: str, seconds: float) -> None:
    client = docker.from_env()
    containers = client.containers.list(filters={"label": f"com.docker.compose.project={project}"})
    before = {container.id: (usage(container)[0], time.monotonic()) for container in containers}
    time.sleep(seconds)
    total_cpu = total_memory = 0.0
    for container in sorted(containers, key=lambda one: one.name):
        cpu, memory = usage(container)
        cpu_before, at = before[container.id]
        share = 100 * (cpu - cpu_before) / (time.monotonic() - at)
        total_cpu += share
        total_memory += memory
        print(f"{container.labels['com.docker.compose.service']:8} {share:6.2f} % of one core {memory:8.0f} MB")
    print(f"{'together':8} {total_cpu:6.2f} % of one core {total_memory:8.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 60)
