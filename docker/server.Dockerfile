# Triton, with the model repository mounted at /models.
FROM nvcr.io/nvidia/tritonserver:26.07-py3

# for the entries of --with-tokenizer, and for --serve python on a CPU: what their requirements.txt name
RUN pip install --no-cache-dir numpy==2.4.6 onnxruntime==1.31.1 pillow==13.0.0 tokenizers==0.23.3

RUN useradd --create-home --uid 10001 triton
USER triton
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m \
    CMD ["curl", "--fail", "--silent", "http://localhost:8000/v2/health/ready"]
ENTRYPOINT ["tritonserver"]
CMD ["--model-repository=/models", "--disable-auto-complete-config"]
