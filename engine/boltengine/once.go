package boltengine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"bennu.example/internal/oncetable"
	"bennu.example/push"
)

// bucketOnce has the replies of Once: the key → see encodeOnce. Files of earlier versions do not
// have it.
var bucketOnce = []byte("once")

const (
	// onceHeader is the size of a value without its reply.
	onceHeader = 16
	// maxOnceKeys and maxOnceBytes bound one commit.
	maxOnceKeys  = 1024
	maxOnceBytes = 4 << 20
	// maxOnceRemoved is the number of changes with which Begin makes a commit.
	maxOnceRemoved = 256
)

// onceStore implements push.OnceStore by a table in memory, whose replies the file has as well. The
// holders and their leases need not be in the file: they end with the process.
//
// A commit writes what the table has for the keys that have changed, so their order does not
// matter. One caller at a time commits, for all that wait.
type onceStore struct {
	store *store
	table *oncetable.Table
	turn  chan struct{} // has one element while somebody commits

	mu      sync.Mutex          // held over no other lock; the table calls removed under its own
	changed map[string]struct{} // keys whose reply was recorded or removed since the commit
	failed  bool                // the last commit
	closed  bool
}

// openOnce returns the store with the replies in the file.
func openOnce(s *store) (*onceStore, error) {
	o := &onceStore{store: s, turn: make(chan struct{}, 1), changed: make(map[string]struct{})}
	o.table = oncetable.New(0, o.change)
	type saved struct {
		key    string
		reply  []byte
		window time.Duration
		seq    uint64
	}
	var all []saved
	err := s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketOnce)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			if len(v) <= onceHeader {
				o.change(string(k)) // a malformed reply is removed
				return nil
			}
			all = append(all, saved{
				string(k), bytes.Clone(v[onceHeader:]),
				time.Duration(binary.BigEndian.Uint64(v)), binary.BigEndian.Uint64(v[8:]),
			})
			return nil
		})
	})
	slices.SortFunc(all, func(a, b saved) int { return cmp.Compare(a.seq, b.seq) })
	for _, r := range all {
		_, _ = o.table.Finish(context.Background(), r.key, "", r.reply, r.window) // never full of running ones
		o.table.Continue(r.seq)
	}
	return o, err
}

// change notes a key whose reply was recorded or removed.
func (o *onceStore) change(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.changed[key] = struct{}{}
}

// has reports whether a key has changed since the commit.
func (o *onceStore) has(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.changed[key]
	return ok
}

// Begin is part of push.OnceStore.
func (o *onceStore) Begin(
	ctx context.Context, key, holder string, lease time.Duration,
) (mine bool, reply []byte, err error) {
	o.mu.Lock()
	closed, due := o.closed, o.failed || len(o.changed) >= maxOnceRemoved
	o.mu.Unlock()
	if closed {
		return false, nil, unavailable(errClosed)
	}
	if due {
		if err := o.commit(ctx, ""); err != nil {
			return false, nil, err
		}
	}
	return o.table.Begin(ctx, key, holder, lease)
}

// Finish is part of push.OnceStore.
func (o *onceStore) Finish(
	ctx context.Context, key, holder string, reply []byte, window time.Duration,
) (counts []byte, err error) {
	if counts, err = o.table.Finish(ctx, key, holder, reply, window); err != nil {
		return nil, err
	}
	o.change(key) // also if another one was first, who may wait for the disk
	return counts, o.commit(ctx, key)
}

// Release is part of push.OnceStore.
func (o *onceStore) Release(ctx context.Context, key, holder string) error {
	return o.table.Release(ctx, key, holder)
}

// Evicted returns the number of replies that were dropped because the store was full.
func (o *onceStore) Evicted() uint64 { return o.table.Evicted() }

// commit returns when the file has what the table has for a key. If the key is empty, it makes one
// commit.
func (o *onceStore) commit(ctx context.Context, key string) error {
	select {
	case o.turn <- struct{}{}:
	case <-ctx.Done():
		return unavailable(context.Cause(ctx))
	}
	defer func() { <-o.turn }()
	for first := true; first && key == "" || o.has(key); first = false {
		if err := o.commitNow(); err != nil {
			return err
		}
	}
	return nil
}

// commitNow makes a commit. The caller has the turn.
func (o *onceStore) commitNow() error {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return unavailable(errClosed)
	}
	keys := slices.Collect(maps.Keys(o.changed))
	clear(o.changed)
	o.mu.Unlock()
	keys = slices.DeleteFunc(keys, func(key string) bool { return key == "" })
	left, err := o.write(keys)
	if err != nil {
		left = keys
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, key := range left {
		o.changed[key] = struct{}{}
	}
	if o.failed = err != nil; o.failed {
		return unavailable(err)
	}
	return nil
}

// write writes what the table has for keys. It returns those that are too many for one commit.
func (o *onceStore) write(keys []string) (left []string, err error) {
	err = o.store.update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketOnce)
		if err != nil {
			return err
		}
		size := 0
		for i, key := range keys {
			if left = nil; i == maxOnceKeys || size > maxOnceBytes {
				left = keys[i:]
				return nil
			}
			reply, window, seq := o.table.Get(key)
			if reply == nil {
				err = b.Delete([]byte(key))
			} else {
				v := binary.BigEndian.AppendUint64(make([]byte, 0, onceHeader+len(reply)), uint64(window))
				v = append(binary.BigEndian.AppendUint64(v, seq), reply...)
				size += len(v)
				err = b.Put([]byte(key), v)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return left, err
}

// close makes a last commit and ends the use of the file.
func (o *onceStore) close() {
	o.turn <- struct{}{}
	defer func() { <-o.turn }()
	o.mu.Lock()
	due := len(o.changed) > 0 && !o.closed
	o.mu.Unlock()
	if due {
		_ = o.commitNow() // after an error, the next process removes expired replies
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

var _ push.OnceStore = (*onceStore)(nil)
