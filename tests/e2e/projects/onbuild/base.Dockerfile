ARG BASE=debian:bookworm
FROM ${BASE}
WORKDIR /site
ONBUILD ARG TITLE=untitled
ONBUILD COPY . /site/
ONBUILD RUN echo "$TITLE" > /site/title && ls /site
CMD ["cat", "/site/title"]
