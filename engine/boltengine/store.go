package boltengine

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"bennu.example/history"
	"bennu.example/internal/safecall"
)

// The buckets of the file.
var (
	bucketMeta    = []byte("meta")    // see below
	bucketTopics  = []byte("topics")  // "t" and the topic → topic
	bucketRecords = []byte("records") // recordKey → stored
	bucketIDs     = []byte("ids")     // the topic's number and the ID → the offset of the record
	bucketSweep   = []byte("sweep")   // sweepKey → sweep entry
	bucketEpochs  = []byte("epochs")  // slot → generation
)

// The keys of bucketMeta.
var (
	metaFormat = []byte("format")
	metaBase   = []byte("base") // of the epochs
)

const format = "bennu history 1"

// slots is the number of generations for topics that the file does not know. When a topic is
// removed, the beginnings of all unknown topics of its slot become invalid.
const slots = 4096

// fileKind is what a file is for.
type fileKind struct {
	name   string // in errors
	format string
	create func(tx *bolt.Tx) error // fills an empty file
	load   func(s *store, tx *bolt.Tx) error
}

var historyFile = &fileKind{name: "history file", format: format, create: create, load: (*store).load}

// store is the open file.
type store struct {
	kind   *fileKind
	path   string
	base   string
	noSync bool
	db     *bolt.DB
	file   *os.File
	// stuck is set when a transaction panicked and could not be rolled back, so that bbolt's lock
	// cannot be taken any more.
	stuck       atomic.Bool
	generations [slots]uint64 // as the file had them when it was opened
	// hook is called in every write transaction, before anything else. It is for tests.
	hook atomic.Pointer[func(tx *bolt.Tx) error]
}

func (s *store) mark() string { return s.path + ".nosync" }

// openStore opens or creates a file.
func openStore(kind *fileKind, path string, noSync bool) (*store, error) {
	s := &store{kind: kind, path: path, noSync: noSync}
	err := s.open()
	if err == nil {
		err = s.prepare()
	}
	if err != nil {
		_ = s.release()
		return nil, fmt.Errorf("boltengine: open %s: %w", path, err)
	}
	return s, nil
}

// open opens the file and locks it. After an unclean end without sync it replaces the file by an
// empty one: pages of any age may have reached the disk then, and bbolt cannot find out which.
func (s *store) open() error {
	err := s.openFile()
	if errors.Is(err, ErrInUse) || s.file == nil {
		return err
	}
	if _, statErr := os.Stat(s.mark()); errors.Is(statErr, fs.ErrNotExist) {
		return err
	}
	removeErr := os.Remove(s.path) // before the lock is released, except on Windows, where it fails
	if err := s.release(); err != nil {
		return err
	}
	if removeErr != nil {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := s.openFile(); err != nil {
		return err
	}
	return os.Remove(s.mark())
}

func (s *store) openFile() error {
	err := protect(func() (err error) {
		s.db, err = bolt.Open(s.path, 0o600, &bolt.Options{
			Timeout: 1, // one attempt to lock the file
			// The map finds free pages in a time that does not depend on their number.
			FreelistType: bolt.FreelistMapType,
			NoStatistics: true,
			OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
				f, err := os.OpenFile(name, flag, mode)
				s.file = f
				return f, err
			},
		})
		return err
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrInUse
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch),
		errors.Is(err, bolterrors.ErrChecksum):
		return fmt.Errorf("%w, or is not a %s: %w", errDamaged, s.kind.name, err)
	}
	return err
}

// prepare checks the file and creates what is missing.
func (s *store) prepare() error {
	opened, err := s.file.Stat()
	if err != nil {
		return err
	}
	// Another process may have replaced the file between our open and our lock.
	if named, err := os.Stat(s.path); err != nil || !os.SameFile(opened, named) {
		return ErrInUse
	}
	created := false
	err = s.view(func(tx *bolt.Tx) error {
		if tx.Size() > opened.Size() {
			return fmt.Errorf("%w: it has %d bytes instead of %d", errDamaged, opened.Size(), tx.Size())
		}
		err := checkPages(s.file, int64(s.db.Info().PageSize), tx.Size(), uint64(tx.ID()))
		if err != nil {
			return err
		}
		created = tx.Bucket(bucketMeta) == nil
		return nil
	})
	if err == nil && created {
		err = s.update(func(tx *bolt.Tx) error {
			if name, _ := tx.Cursor().First(); name != nil {
				return fmt.Errorf("not a %s: it has a bucket %.20q", s.kind.name, name)
			}
			return s.kind.create(tx)
		})
	}
	if err == nil && created {
		syncDir(s.path)
	}
	if err == nil {
		err = s.view(func(tx *bolt.Tx) error {
			if found := tx.Bucket(bucketMeta).Get(metaFormat); string(found) != s.kind.format {
				return fmt.Errorf("not a %s of this version: its format is %.40q", s.kind.name, found)
			}
			return s.kind.load(s, tx)
		})
	}
	if err == nil && s.noSync {
		err = s.setMark()
		s.db.NoSync = err == nil
	}
	return err
}

// create fills an empty file of an Engine.
func create(tx *bolt.Tx) error {
	for _, name := range [...][]byte{bucketTopics, bucketRecords, bucketIDs, bucketSweep, bucketEpochs} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	meta, err := tx.CreateBucket(bucketMeta)
	if err != nil {
		return err
	}
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	base := make([]byte, baseSize)
	_, _ = rand.Read(base) // never fails
	for i, b := range base {
		base[i] = alphabet[b&31]
	}
	if err := meta.Put(metaBase, base); err != nil {
		return err
	}
	return meta.Put(metaFormat, []byte(format))
}

// load reads what is kept in memory.
func (s *store) load(tx *bolt.Tx) error {
	s.base = string(tx.Bucket(bucketMeta).Get(metaBase))
	if _, err := history.NewPosition(epochOf(s.base, maxGeneration), 0, string(beginning[:])); err != nil {
		return fmt.Errorf("%w: invalid epoch %.20q", errDamaged, s.base)
	}
	for _, name := range [...][]byte{bucketTopics, bucketRecords, bucketIDs, bucketSweep, bucketEpochs} {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: no bucket %s", errDamaged, name)
		}
	}
	return tx.Bucket(bucketEpochs).ForEach(func(k, v []byte) error {
		slot, generation, err := parseEpoch(k, v)
		if err == nil {
			s.generations[slot] = generation
		}
		return err
	})
}

// setMark creates the mark of use without sync. It is on the disk before anything else.
func (s *store) setMark() error {
	f, err := os.OpenFile(s.mark(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	syncDir(s.path)
	return nil
}

// syncDir makes a new name in a directory durable. Not every system can, so errors are ignored.
func syncDir(path string) {
	if d, err := os.Open(filepath.Dir(path)); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

// close ends the use of the file in good order.
func (s *store) close() error {
	var err error
	if s.noSync && !s.stuck.Load() {
		// The mark goes before the lock, so that it is ours.
		if err = s.file.Sync(); err == nil {
			err = os.Remove(s.mark())
		}
	}
	return errors.Join(err, s.release())
}

// release closes the file as it is.
func (s *store) release() error {
	if s.db != nil && !s.stuck.Load() {
		return protect(s.db.Close)
	}
	if s.file != nil {
		// bbolt gave up on the file, and may not have unmapped it.
		unlock(s.file)
		if err := s.file.Close(); !errors.Is(err, fs.ErrClosed) {
			return err
		}
	}
	return nil
}

// view runs a read transaction. Keys and values are valid only until f returns.
func (s *store) view(f func(tx *bolt.Tx) error) error {
	return protect(func() error { return s.db.View(f) })
}

// update runs a write transaction and commits it. After an error it has no effect, except that it
// may have one after an error that wraps errUncertain.
func (s *store) update(f func(tx *bolt.Tx) error) error {
	if s.stuck.Load() {
		return errStuck
	}
	var current *bolt.Tx
	id := 0
	err := protect(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			current, id = tx, tx.ID()
			if hook := s.hook.Load(); hook != nil {
				if err := (*hook)(tx); err != nil {
					return err
				}
			}
			return f(tx)
		})
	})
	if err == nil || current == nil {
		return err
	}
	if current.DB() != nil { // it panicked, and again in its rollback
		s.stuck.Store(true)
	}
	// If the last step of a commit fails, which is to sync, its changes are visible.
	visible := false
	viewErr := s.view(func(tx *bolt.Tx) error {
		visible = tx.ID() >= id
		return nil
	})
	if visible || viewErr != nil {
		err = fmt.Errorf("%w: %w", errUncertain, err)
	}
	return err
}

var (
	errStuck     = fmt.Errorf("%w: an earlier transaction could not be ended", errDamaged)
	errUncertain = errors.New("the commit did not succeed, but may have an effect")
)

// protect calls f, which uses the file. bbolt panics if the file is damaged, and reading a mapped
// file that was truncated is a fault; both become errors.
func protect(f func() error) error {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err := safecall.Do(f, nil)
	if p, ok := errors.AsType[*safecall.PanicError](err); ok {
		return fmt.Errorf("%w: %w", errDamaged, p)
	}
	return err
}

func parseEpoch(k, v []byte) (slot int, generation uint64, err error) {
	if len(k) != 2 || len(v) != 8 || binary.BigEndian.Uint16(k) >= slots {
		return 0, 0, fmt.Errorf("%w: malformed epoch", errDamaged)
	}
	if generation = binary.BigEndian.Uint64(v); generation > maxGeneration {
		return 0, 0, fmt.Errorf("%w: malformed epoch", errDamaged)
	}
	return int(binary.BigEndian.Uint16(k)), generation, nil
}

// putEpoch stores the generation of a slot.
func putEpoch(tx *bolt.Tx, slot int, generation uint64) error {
	k := binary.BigEndian.AppendUint16(nil, uint16(slot))
	return tx.Bucket(bucketEpochs).Put(k, binary.BigEndian.AppendUint64(nil, generation))
}

// slotOf returns the slot of a topic.
func slotOf(topic string) int { return int(crc32.ChecksumIEEE([]byte(topic)) % slots) }
