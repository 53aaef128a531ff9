module github.com/drpcd/drpcd/interop

go 1.25.0

tool (
	google.golang.org/protobuf/cmd/protoc-gen-go
	storj.io/drpc/cmd/protoc-gen-go-drpc
)

require (
	github.com/bufbuild/protocompile v0.14.1
	github.com/coder/websocket v1.8.15
	github.com/google/uuid v1.6.0
	github.com/hashicorp/yamux v0.1.2
	golang.org/x/sync v0.8.0
	google.golang.org/protobuf v1.36.12
	storj.io/drpc v0.0.34
)

require github.com/zeebo/errs v1.2.2 // indirect
