# prune2deploy with TensorRT, CUDA and PyTorch, as NVIDIA builds them. The release is the server's: plans run on the
# TensorRT that built them.
FROM nvcr.io/nvidia/pytorch:26.07-py3

WORKDIR /opt/prune2deploy
COPY pyproject.toml README.md ./
COPY prune2deploy ./prune2deploy
# the image's own torch and TensorRT stay: pip only adds what is missing
RUN pip install --no-cache-dir ".[gpu,triton]"

RUN useradd --create-home --uid 10001 engineer
USER engineer
WORKDIR /work
HEALTHCHECK --interval=1m --timeout=30s CMD ["prune2deploy", "doctor", "--json"]
ENTRYPOINT ["prune2deploy"]
CMD ["--help"]
