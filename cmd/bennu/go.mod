module bennu.example/cmd/bennu

go 1.26.0

toolchain go1.26.8

require (
	bennu.example v0.0.0
	bennu.example/examples/chat v0.0.0
	github.com/coder/websocket v1.8.15
	github.com/mattn/go-isatty v0.0.20
	github.com/rs/zerolog v1.35.1
	github.com/spf13/cobra v1.10.2
	github.com/spf13/pflag v1.0.10
)

require (
	github.com/google/uuid v1.6.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/mattn/go-colorable v0.1.14 // indirect
	golang.org/x/sys v0.45.0 // indirect
)

replace (
	bennu.example => ../..
	bennu.example/engine/boltengine => ../../engine/boltengine
	bennu.example/examples/chat => ../../examples/chat
)
