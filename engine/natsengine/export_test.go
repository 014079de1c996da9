package natsengine

import (
	"time"

	"bennu.example/engine/internal/broker"
)

// Token is token.
func Token(name string) string { return token(name) }

// NewEngine is the engine of an adapter.
func NewEngine(cfg Config) (broker.Engine, error) {
	e := &engine{prefix: defaultPrefix, timeout: time.Second}
	return e, e.configure(cfg)
}

// CheckFrames checks bytes of a server that come in these pieces.
func CheckFrames(pieces ...[]byte) error { return check((&frames{}).check, pieces) }

// CheckWebSocket is CheckFrames for a WebSocket.
func CheckWebSocket(pieces ...[]byte) error { return check((&webSocket{}).check, pieces) }

func check(f func([]byte) error, pieces [][]byte) error {
	for _, p := range pieces {
		if err := f(p); err != nil {
			return err
		}
	}
	return nil
}
