module weft.dev/tests/server

go 1.26.0
