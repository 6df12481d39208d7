// A mapper in Go, for the tests: it dials and decodes as existing mappers do.
module tombolo.dev/tests/mapper

go 1.25.0

require (
	google.golang.org/grpc v1.71.1
	google.golang.org/protobuf v1.36.5
)

require (
	golang.org/x/net v0.34.0 // indirect
	golang.org/x/sys v0.29.0 // indirect
	golang.org/x/text v0.21.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20250115164207-1a7da9e5054f // indirect
)
