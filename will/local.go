package will

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
)

// NewLocal returns a Store for one process that keeps wills in memory, and saves them in a database
// of its own. The caller passes what it has saved before: the nodes of that time have ended, so
// their wills are due after their time from now.
//
// Save stores a value under a key, or removes the key if the value is nil. It is called for one
// change of a key at a time, and a change has an effect only if it returns nil. Arrivals without
// wills are not saved, because no connection outlives the process. Zero keep means Keep.
func NewLocal(saved map[string][]byte, save func(key string, value []byte) error, keep time.Duration) (Store, error) {
	l := &local{memory: newMemory(monotonic(), memoryArrivals), save: save, seed: maphash.MakeSeed()}
	s := NewStore(l, keep).(*store)
	for key, value := range saved {
		var c client
		if err := json.Unmarshal(value, &c); err != nil {
			return nil, fmt.Errorf("will: malformed entry: %w", err)
		}
		e, err := s.entry(&c, l.now().UnixMilli())
		if err == nil {
			_, err = l.memory.Swap(context.Background(), key, "", e)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// local is a memory that saves its entries.
type local struct {
	*memory

	save  func(key string, value []byte) error
	seed  maphash.Seed
	locks [64]sync.Mutex // by key: held while an entry is saved and replaced
}

// Swap is part of Table.
func (l *local) Swap(ctx context.Context, key, version string, e Entry) (bool, error) {
	lock := &l.locks[maphash.String(l.seed, key)%uint64(len(l.locks))]
	lock.Lock()
	defer lock.Unlock()
	old, err := l.Get(ctx, key)
	if err != nil || old.Version != version {
		return false, err
	}
	before, after := hasWills(old.Value), hasWills(e.Value)
	switch {
	case after:
		err = l.save(key, e.Value)
	case before:
		err = l.save(key, nil)
	}
	if err != nil {
		return false, err
	}
	return l.memory.Swap(ctx, key, version, e)
}

// hasWills reports whether an entry is more than an arrival.
func hasWills(value []byte) bool {
	var c struct{ Wills []json.RawMessage }
	return len(value) > 0 && json.Unmarshal(value, &c) == nil && len(c.Wills) > 0
}
