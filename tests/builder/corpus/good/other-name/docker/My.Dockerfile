FROM corpus:base
COPY . /c/
