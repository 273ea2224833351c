# anyid-rt in a container: docker build -t anyid-rt . && docker run --rm -v "$PWD:/work" anyid-rt generate …
FROM rust:1.95-slim-trixie AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo build --release --locked -p anyid-cli --features provenance

FROM debian:trixie-slim
# For other containers and codecs than MP4 with H.264, GIF and PNG.
RUN apt-get update && apt-get install -y --no-install-recommends ffmpeg && rm -rf /var/lib/apt/lists/*
COPY --from=build /source/target/release/anyid-rt /usr/local/bin/anyid-rt
WORKDIR /work
ENTRYPOINT ["anyid-rt"]
