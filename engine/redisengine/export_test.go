package redisengine

import (
	"context"
	"time"

	"github.com/redis/rueidis"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
	"bennu.example/state"
	"bennu.example/will"
)

// NewBackend returns the backend of an engine.
func NewBackend(opts rueidis.ClientOption) broker.Backend {
	return newBackend(defaultPrefix, time.Second, 0, opts)
}

// Requeue sends two requests, of which the caller of the first gives up, and puts both back because
// the server refused them. It returns the number that is sent again, and the error of the first.
func Requeue() (again int, first error) {
	l := newLane(10, 10, true)
	l.setOpen(true)
	given, other := new(request), new(request)
	_ = l.enqueue(given) // there is room
	_ = l.enqueue(other)
	batch := l.take()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	first = l.await(ctx, given)
	l.requeue(batch)
	return len(l.take()), first
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

// KeepWills makes the store of wills keep what nobody needs for another time.
func (e *Engine) KeepWills(keep time.Duration) { e.wills.store = will.NewStore(e.wills, keep) }

// ForgetDeletionsAfter changes how long the store of objects remembers a deletion.
func (e *Engine) ForgetDeletionsAfter(d time.Duration) { e.objects.tombstoneAge = d }

// ParseChange parses a message of an object's channel.
func ParseChange(data string) (state.Change, error) { return parseChange(data) }
