module bennu.example/examples/bot

go 1.26.0

toolchain go1.26.8

require (
	bennu.example v0.0.0
	bennu.example/engine/boltengine v0.0.0
)

require (
	github.com/coder/websocket v1.8.15 // indirect
	github.com/mattn/go-colorable v0.1.14 // indirect
	github.com/mattn/go-isatty v0.0.20 // indirect
	github.com/rs/zerolog v1.35.1 // indirect
	go.etcd.io/bbolt v1.5.0 // indirect
	golang.org/x/sys v0.45.0 // indirect
)

replace (
	bennu.example => ../..
	bennu.example/engine/boltengine => ../../engine/boltengine
)
