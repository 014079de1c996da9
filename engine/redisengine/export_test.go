package redisengine

import (
	"time"

	"github.com/redis/rueidis"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
)

// NewBackend returns the backend of an engine.
func NewBackend(opts rueidis.ClientOption) broker.Backend {
	return newBackend(defaultPrefix, time.Second, 0, opts)
}

// ParseFed parses a message of a topic's channel.
func ParseFed(data string) (history.Record, error) { return parseFed(data) }

// CheckFrames checks bytes of a server that arrive in these pieces and answer these commands.
func CheckFrames(commands []byte, pieces ...[]byte) error {
	f := frames{bulk: maxBulk}
	if err := f.sent(commands); err != nil {
		return err
	}
	for _, p := range pieces {
		if err := f.check(p); err != nil {
			return err
		}
	}
	return nil
}
