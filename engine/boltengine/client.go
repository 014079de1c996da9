package boltengine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"bennu.example/offline"
)

// The buckets of a client's file. Each identity has a bucket in bucketIdentities, whose name is "i"
// and the identity, with a bucket of entries and one of mirrors.
var (
	bucketIdentities = []byte("identities")
	bucketEntries    = []byte("entries") // the Seq → entry
	bucketMirrors    = []byte("mirrors") // mirrorKey → mirror
)

const clientFormat = "bennu client 1"

var clientFile = &fileKind{name: "client file", format: clientFormat, create: createClient, load: loadClient}

const (
	// maxGather bounds how long a commit waits for more calls of Apply.
	maxGather = 5 * time.Millisecond
	// maxCommit is the number of calls that share a commit, and maxCommitBytes their size from which
	// on no more are added.
	maxCommit      = 256
	maxCommitBytes = 4 << 20
)

// OpenClient opens the store of a client, or of several, in a file. It creates the file, with
// permissions 0600, if it does not exist; its directory must exist. The caller must call Close.
//
// One process can use the file. If it is in use, OpenClient returns at once an error that wraps
// ErrInUse. Every error wraps offline.ErrStore.
//
// A file that is damaged, or that is truncated while it is in use, never causes a panic:
// OpenClient, or the calls that need the damaged part, return an error. The only remedy is to
// remove the file. On a full disk Apply fails and Load works, and Apply works again when there is
// room. The file does not shrink, but uses the space of removed entries again.
func OpenClient(path string) (offline.Store, error) {
	if path == "" {
		return nil, fmt.Errorf("boltengine: the path of the client file is empty (%w)", offline.ErrStore)
	}
	s, err := openStore(clientFile, path, false)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", err, offline.ErrStore)
	}
	c := &clientStore{
		store: s, writes: make(chan *clientWrite), closing: make(chan struct{}), ended: make(chan struct{}),
	}
	go c.run()
	return c, nil
}

func createClient(tx *bolt.Tx) error {
	if _, err := tx.CreateBucket(bucketIdentities); err != nil {
		return err
	}
	meta, err := tx.CreateBucket(bucketMeta)
	if err != nil {
		return err
	}
	return meta.Put(metaFormat, []byte(clientFormat))
}

func loadClient(_ *store, tx *bolt.Tx) error {
	if tx.Bucket(bucketIdentities) == nil {
		return fmt.Errorf("%w: no bucket %s", errDamaged, bucketIdentities)
	}
	return nil
}

// clientStore is an offline.Store in a file. Its goroutine, run, commits. It receives the writes
// over a channel without a buffer, so that only the callers of Apply hold what waits.
type clientStore struct {
	store   *store
	writes  chan *clientWrite
	closing chan struct{} // closed by Close
	ended   chan struct{} // closed when run has returned
	waiting atomic.Int32  // calls that wait for their turn; for tests

	use    sync.RWMutex // held for reading while the file is read, and for writing to close it
	closed bool         // guarded by use
	once   sync.Once    // of Close
	err    error        // of Close
}

// clientWrite is a call of Apply, or of Purge, which waits for its commit.
type clientWrite struct {
	identity string
	purge    bool // removes all other identities
	changes  []clientChange
	size     int
	done     chan error
}

// clientChange is an encoded operation.
type clientChange struct {
	bucket     []byte
	key, value []byte // a nil value removes the key
	prefix     bool   // all keys that begin with key are removed
}

var errClientClosed = fmt.Errorf("boltengine: the client file is closed (%w)", offline.ErrStore)

// failure returns the error of a method for an error of the file.
func (c *clientStore) failure(err error) error {
	return fmt.Errorf("boltengine: %s: %w (%w)", c.store.path, err, offline.ErrStore)
}

// Apply is part of offline.Store.
func (c *clientStore) Apply(ctx context.Context, identity string, ops []offline.Op) error {
	if err := offline.Check(identity, ops); err != nil {
		return err
	}
	w := &clientWrite{identity: identity, changes: make([]clientChange, len(ops))}
	for i, op := range ops {
		w.changes[i] = encodeOp(identity, op)
		w.size += len(w.changes[i].key) + len(w.changes[i].value)
	}
	return c.commit(ctx, w)
}

// Purge is part of offline.Store.
func (c *clientStore) Purge(ctx context.Context, exceptIdentity string) error {
	return c.commit(ctx, &clientWrite{identity: exceptIdentity, purge: true})
}

// commit hands a write to run and waits for its result.
func (c *clientStore) commit(ctx context.Context, w *clientWrite) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w.done = make(chan error, 1)
	c.waiting.Add(1)
	select {
	case c.writes <- w:
		c.waiting.Add(-1)
		return <-w.done
	case <-c.closing:
		c.waiting.Add(-1)
		return errClientClosed
	case <-ctx.Done():
		c.waiting.Add(-1)
		return context.Cause(ctx)
	}
}

// run commits until Close.
func (c *clientStore) run() {
	defer close(c.ended)
	expected, took := 0, time.Duration(0) // of the last commit
	for {
		select {
		case w := <-c.writes:
			batch := c.gather(w, expected, took/2)
			begun := time.Now()
			c.write(batch)
			expected, took = len(batch), time.Since(begun)
		case <-c.closing:
			return
		}
	}
}

// gather returns writes for one commit. It takes those that wait. If the last commit had more,
// their callers were just answered, and many are about to write again: it waits for them.
func (c *clientStore) gather(first *clientWrite, expected int, wait time.Duration) []*clientWrite {
	batch, size := []*clientWrite{first}, first.size
	var late <-chan time.Time
	for len(batch) < maxCommit && size < maxCommitBytes {
		select {
		case w := <-c.writes:
			batch, size = append(batch, w), size+w.size
			continue
		default:
		}
		if len(batch) >= expected {
			break
		}
		if late == nil {
			timer := time.NewTimer(min(maxGather, wait))
			defer timer.Stop()
			late = timer.C
		}
		select {
		case w := <-c.writes:
			batch, size = append(batch, w), size+w.size
			continue
		case <-late:
		case <-c.closing:
		}
		break
	}
	return batch
}

// write commits a batch and answers the callers. If that fails, it commits each write alone: one of
// them may be too large for the disk, or need a damaged part of the file.
func (c *clientStore) write(batch []*clientWrite) {
	err := c.store.update(func(tx *bolt.Tx) error {
		for _, w := range batch {
			if err := w.apply(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && len(batch) > 1 && !errors.Is(err, errUncertain) {
		for i := range batch {
			c.write(batch[i : i+1])
		}
		return
	}
	if err != nil {
		err = c.failure(err)
	}
	for _, w := range batch {
		w.done <- err
	}
}

// identityKey is the name of an identity's bucket.
func identityKey(identity string) []byte { return append([]byte{'i'}, identity...) }

func (w *clientWrite) apply(tx *bolt.Tx) error {
	root := tx.Bucket(bucketIdentities)
	if root == nil {
		return fmt.Errorf("%w: no bucket %s", errDamaged, bucketIdentities)
	}
	if w.purge {
		return w.applyPurge(root)
	}
	if len(w.changes) == 0 {
		return nil
	}
	own, err := root.CreateBucketIfNotExists(identityKey(w.identity))
	if err != nil {
		return err
	}
	for _, change := range w.changes {
		b, err := own.CreateBucketIfNotExists(change.bucket)
		if err == nil {
			err = change.apply(b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// applyPurge removes all identities but that of the write.
func (w *clientWrite) applyPurge(root *bolt.Bucket) error {
	var others [][]byte
	except := string(identityKey(w.identity))
	if err := root.ForEach(func(name, _ []byte) error {
		if string(name) != except {
			others = append(others, name)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, name := range others {
		if err := root.DeleteBucket(name); err != nil {
			return err
		}
	}
	return nil
}

func (c clientChange) apply(b *bolt.Bucket) error {
	switch {
	case c.prefix:
		return deletePrefix(b, c.key)
	case c.value == nil:
		return b.Delete(c.key)
	}
	return b.Put(c.key, c.value)
}

// Load is part of offline.Store.
func (c *clientStore) Load(
	ctx context.Context, identity string, each func(offline.Entry, *offline.Mirror) error,
) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	entries, mirrors, err := c.read(identity)
	if err != nil {
		return err
	}
	for i := range mirrors {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := each(offline.Entry{}, &mirrors[i]); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := each(e, nil); err != nil {
			return err
		}
	}
	return nil
}

// Close is part of offline.Store.
func (c *clientStore) Close() error {
	c.once.Do(func() {
		close(c.closing)
		<-c.ended
		c.use.Lock()
		defer c.use.Unlock()
		c.closed = true
		if err := c.store.close(); err != nil {
			c.err = c.failure(err)
		}
	})
	return c.err
}
