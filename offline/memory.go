package offline

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// NewMemory returns a store in the memory of this process. It answers without waiting, and its
// contents end with the process. Config bounds what a client keeps in it.
func NewMemory() Store { return &memory{identities: make(map[string]*identityData)} }

// memory is the store of NewMemory. Nothing blocks under its lock.
type memory struct {
	mu         sync.Mutex
	identities map[string]*identityData
	closed     bool
}

// identityData is what one identity has. Its values are never changed, only replaced.
type identityData struct {
	entries map[uint64]*Entry
	mirrors map[mirrorKey]*Mirror
}

type mirrorKey struct{ topic, kind string }

var errClosed = fmt.Errorf("%w: it is closed", ErrStore)

// Apply is part of Store.
func (m *memory) Apply(ctx context.Context, identity string, ops []Op) error {
	if err := Check(identity, ops); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	d := m.identities[identity]
	if d == nil {
		d = &identityData{entries: make(map[uint64]*Entry), mirrors: make(map[mirrorKey]*Mirror)}
		m.identities[identity] = d
	}
	for _, op := range ops {
		d.apply(op)
	}
	if len(d.entries)+len(d.mirrors) == 0 {
		delete(m.identities, identity)
	}
	return nil
}

// usable returns why the store cannot be used. The caller holds mu.
func (m *memory) usable(ctx context.Context) error {
	if m.closed {
		return errClosed
	}
	return context.Cause(ctx)
}

func (d *identityData) apply(op Op) {
	switch {
	case op.Put != nil:
		e := *op.Put
		e.Payload, e.Made, e.Sent = bytes.Clone(e.Payload), stored(e.Made), stored(e.Sent)
		d.entries[e.Seq] = &e
	case op.Drop != 0:
		delete(d.entries, op.Drop)
	case op.Keep != nil:
		m := *op.Keep
		m.Value, m.Used = bytes.Clone(m.Value), stored(m.Used)
		d.mirrors[mirrorKey{m.Topic, m.Kind}] = &m
	default:
		maps.DeleteFunc(d.mirrors, func(k mirrorKey, _ *Mirror) bool { return k.topic == op.Forget })
	}
}

// stored returns a time as stores keep it.
func stored(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMilli(t.UnixMilli())
}

// Load is part of Store.
func (m *memory) Load(ctx context.Context, identity string, each func(Entry, *Mirror) error) error {
	entries, mirrors, err := m.contents(ctx, identity)
	if err != nil {
		return err
	}
	for _, mirror := range mirrors {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		own := *mirror
		if err := each(Entry{}, &own); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := each(*e, nil); err != nil {
			return err
		}
	}
	return nil
}

// contents returns what an identity has, in order.
func (m *memory) contents(ctx context.Context, identity string) ([]*Entry, []*Mirror, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, nil, err
	}
	d := m.identities[identity]
	if d == nil {
		return nil, nil, nil
	}
	entries := slices.SortedFunc(maps.Values(d.entries), func(a, b *Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	mirrors := slices.SortedFunc(maps.Values(d.mirrors), func(a, b *Mirror) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Kind, b.Kind))
	})
	return entries, mirrors, nil
}

// Purge is part of Store.
func (m *memory) Purge(ctx context.Context, exceptIdentity string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	maps.DeleteFunc(m.identities, func(identity string, _ *identityData) bool { return identity != exceptIdentity })
	return nil
}

// Close is part of Store.
func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed, m.identities = true, nil
	return nil
}
