package natsengine

import (
	"time"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
	"bennu.example/will"
)

// Token exports token to tests.
func Token(name string) string { return token(name) }

// NewBackend returns the backend of an engine.
func NewBackend(cfg Config) (broker.Backend, error) {
	b := &backend{prefix: defaultPrefix, timeout: time.Second}
	return b, b.configure(cfg)
}

// CheckFrames checks bytes of a server that arrive in these pieces.
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

// InFlight returns the number of appends of a log that were sent and not answered yet.
func InFlight(l history.Log) (n int) {
	log := l.(*historyLog)
	log.mu.Lock()
	defer log.mu.Unlock()
	for _, r := range log.calls {
		if r.stores {
			n++
		}
	}
	return n
}

// KeepWills makes the store of wills keep what nobody needs for another time.
func (e *Engine) KeepWills(keep time.Duration) { e.wills.store = will.NewStore(e.wills, keep) }
