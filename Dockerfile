# docker build -t stbn .
# docker run --rm -v "$PWD:/work" stbn denoise input.mp4
# For PyTorch's small CPU build, pass the address of its index: --build-arg PIP_EXTRA_INDEX_URL=...
FROM python:3.12-slim
ARG PIP_EXTRA_INDEX_URL
COPY . /src
RUN pip install --no-cache-dir /src && rm -r /src
WORKDIR /work
ENTRYPOINT ["stbn"]
