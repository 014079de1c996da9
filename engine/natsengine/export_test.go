package natsengine

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
	"bennu.example/state"
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

// KeepCopies bounds the memory of copies of objects that are not in use.
func (e *Engine) KeepCopies(size int) { e.objects.room = size }

// KeepOnceIndex bounds the memory of the index of Once.
func (e *Engine) KeepOnceIndex(size int) { e.wills.once.room = size }

// OnceIndex returns how many ids the index of Once has, and its estimated memory as it is counted
// and as it is.
func (e *Engine) OnceIndex() (ids, counted, size int) {
	o := e.wills.once
	o.mu.Lock()
	defer o.mu.Unlock()
	for place := o.recent.Front(); place != nil; place = place.Next() {
		own := place.Value.(*onceOwner)
		if o.owners[own.name] != own {
			size++ // it should not be there
		}
		size += onceOwnerCost
		for subject := range own.ids {
			ids++
			size += onceIDCost + len(subject)
		}
	}
	return ids, o.size, size
}

// KeepDeadlines bounds the memory of deadlines of objects without a copy.
func (e *Engine) KeepDeadlines(size int) { e.objects.deadlineRoom = size }

// Cells returns the number of objects that the node knows of, and whether one has a deadline.
func (e *Engine) Cells(object string) (n int, hasDeadline bool) {
	x := &e.objects.copies
	x.copiesMu.Lock()
	defer x.copiesMu.Unlock()
	c := x.cells[object]
	return len(x.cells), c != nil && !c.due.IsZero()
}

// AdvanceClock makes the store of objects believe that the server's clock is ahead.
func (e *Engine) AdvanceClock(by time.Duration) {
	e.objects.clock.measured(time.Now().Add(by), time.Now(), 0)
}

// ObjectSeeds returns a write, an end, one of an earlier version, a snapshot and a part of one.
func ObjectSeeds() [][]byte {
	at := time.UnixMilli(1)
	e := &entry{
		kind: kindChange, at: at, epoch: "e", tags: []string{"0z0z", "1z1z"}, keep: 1, id: "id", revs: []uint64{1, 2},
		items: []state.Item{
			{Key: "a", Rev: 1, Value: []byte("1"), Expires: at}, {Key: "b", Rev: 2, Deleted: state.ReasonDeleted},
		},
		revision: 2,
	}
	gone := &entry{kind: kindGone, at: at, epoch: "e", prev: 2, prevTag: "1z1z", reason: state.ReasonRemoved}
	base, _ := history.NewPosition("b", 0, beginningTag)
	var r replica
	r.apply(e, base)
	p := part{nonce: 1, epoch: "e", count: 1, data: r.encode()}
	end := gone.encode()
	return [][]byte{e.encode(), end, end[:len(end)-1], r.encode(), p.encode()}
}

// ParseObject parses bytes as each of the forms of ObjectSeeds. If it succeeds, the result must be
// the same after it was encoded again.
func ParseObject(t *testing.T, data []byte) {
	parsePart(1, data)
	base, _ := history.NewPosition("b", 0, beginningTag)
	if e, ok := parseEntry(1, data); ok {
		again, ok := parseEntry(1, e.encode())
		if again.size = e.size; !ok || !reflect.DeepEqual(again, e) {
			t.Errorf("%+v is %+v", e, again)
		}
		if r := new(replica); r.follows(e) {
			r.apply(e, base)
		}
	}
	if r, ok := parseReplica(data); ok {
		again, ok := parseReplica(r.encode())
		if !ok || !bytes.Equal(again.encode(), r.encode()) {
			t.Errorf("%+v is %+v", r, again)
		}
		p := r.read(state.Range{}, "", 10, time.Now())
		_, _ = r.changes(p.Position, base, state.Range{}, 10, time.Now())
		_, _ = r.changes(base, base, state.Range{}, 10, time.Now())
	}
}
