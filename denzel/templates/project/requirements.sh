#!/usr/bin/env bash
# What your pipeline needs of the operating system; run as root while the image is built, for example
#     apt-get update && apt-get install --yes --no-install-recommends libgomp1
# After a change: denzel updateosreqs
