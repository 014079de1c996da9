package boltengine_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/push/oncetest"
)

func TestOnce(t *testing.T) {
	t.Parallel()
	oncetest.Run(t, oncetest.Config{New: func(t *testing.T) (a, b push.OnceStore) {
		s := open(t, config(t)).Once()
		return s, s
	}})
}

// record records the reply "done" to keys, many at once.
func record(t *testing.T, s push.OnceStore, window time.Duration, keys ...string) {
	t.Helper()
	var all sync.WaitGroup
	for _, key := range keys {
		all.Go(func() {
			if mine, reply, err := s.Begin(t.Context(), key, "h", time.Hour); !mine || err != nil {
				t.Errorf("Begin(%s): %v, %q, %v", key, mine, reply, err)
				return
			}
			if reply, err := s.Finish(t.Context(), key, "h", []byte("done"), window); string(reply) != "done" || err != nil {
				t.Errorf("Finish(%s): %q, %v", key, reply, err)
			}
		})
	}
	all.Wait()
}

// keys returns the keys of pushes of a client in a topic.
func keys(owner string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint(owner, ".", i)
	}
	return list
}

// TestOnceAfterKill copies the file, as a process that was killed leaves it.
func TestOnceAfterKill(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s := open(t, cfg).Once()
	record(t, s, time.Hour, keys("ann.room", 200)...)
	for i := range 900 { // one after the other, so that the order is known
		record(t, s, time.Hour, fmt.Sprint("bob.room.", i))
	}
	if mine, _, err := s.Begin(t.Context(), "ann.room.running", "h", time.Hour); !mine || err != nil {
		t.Fatal(mine, err)
	}
	file, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	again := open(t, boltengine.Config{Path: path}).Once()
	for _, key := range keys("ann.room", 200) {
		mine, reply, err := again.Begin(t.Context(), key, "other", time.Hour)
		if mine || string(reply) != "done" || err != nil {
			t.Fatalf("%s: %v, %q, %v", key, mine, reply, err)
		}
	}
	if mine, _, err := again.Begin(t.Context(), "ann.room.running", "other", time.Hour); !mine || err != nil {
		t.Errorf("%v, %v: the holder has ended with its process", mine, err)
	}
	record(t, again, time.Hour, keys("bob.room.new", 200)...)
	record(t, again, time.Hour, "bob.room.last")
	// Those of bob.room.new are of another topic, so only the last one is in addition.
	if _, reply, err := again.Begin(t.Context(), "bob.room.0", "other", time.Hour); string(reply) != "done" || err != nil {
		t.Errorf("%q, %v", reply, err)
	}
	for i := range 200 {
		record(t, again, time.Hour, fmt.Sprint("bob.room.more", i))
	}
	// 1,101 were recorded, and 0 was used again.
	for key, want := range map[string]string{"bob.room.0": "done", "bob.room.1": "", "bob.room.200": "done"} {
		_, reply, err := again.Begin(t.Context(), key, "other", time.Hour)
		if string(reply) != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", key, reply, err, want)
		}
	}
}

// TestOnceFileIsSwept checks that expired replies leave the file, in groups.
func TestOnceFileIsSwept(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	e := open(t, cfg)
	var commits atomic.Int64
	defer e.Hook(func(*bolt.Tx) error { commits.Add(1); return nil })()
	record(t, e.Once(), time.Millisecond, keys("ann.room", 900)...)
	record(t, e.Once(), time.Hour, "ann.room.kept", "ann.room.too")
	before := commits.Load()
	<-time.After(10 * time.Millisecond) // the windows end
	for i := range 10 {                 // which changes nothing, apart from the sweep
		if _, _, err := e.Once().Begin(t.Context(), "ann.room.kept", fmt.Sprint(i), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if n := commits.Load() - before; n > 1 {
		t.Errorf("%d commits", n)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(cfg.Path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	left := 0
	if err := db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("once")).ForEach(func([]byte, []byte) error { left++; return nil })
	}); err != nil {
		t.Fatal(err)
	}
	if left != 2 {
		t.Errorf("%d replies are in the file, want 2", left)
	}
}

// TestOnceDiskFull checks that the first failed commit is an error of Finish, and that then nothing
// begins until the disk has room.
func TestOnceDiskFull(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	e := open(t, cfg)
	s := e.Once()
	full := errors.New("no space left on device")
	restore := e.Hook(func(*bolt.Tx) error { return full })
	if mine, _, err := s.Begin(t.Context(), "ann.room.1", "h", time.Hour); !mine || err != nil {
		t.Fatal(mine, err)
	}
	if _, err := s.Finish(t.Context(), "ann.room.1", "h", []byte("done"), time.Hour); !errors.Is(err, full) {
		t.Errorf("Finish: %v", err)
	}
	for range 2 {
		mine, reply, err := s.Begin(t.Context(), "ann.room.2", "h", time.Hour)
		if mine || reply != nil || !errors.Is(err, history.ErrUnavailable) {
			t.Errorf("Begin: %v, %q, %v", mine, reply, err)
		}
	}
	restore()
	record(t, s, time.Hour, "ann.room.2")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Begin(t.Context(), "ann.room.3", "h", time.Hour); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("Begin after Close: %v", err)
	}
	_, err := s.Finish(t.Context(), "ann.room.3", "h", []byte("done"), time.Hour)
	if !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("Finish after Close: %v", err)
	}
	s = open(t, cfg).Once()
	for _, key := range []string{"ann.room.1", "ann.room.2"} {
		if _, reply, err := s.Begin(t.Context(), key, "h", time.Hour); string(reply) != "done" || err != nil {
			t.Errorf("%s after a restart: %q, %v", key, reply, err)
		}
	}
}

// TestOnceSharesCommits checks that replies that wait at the same time share a commit.
func TestOnceSharesCommits(t *testing.T) {
	t.Parallel()
	e := open(t, config(t))
	record(t, e.Once(), time.Hour, "ann.room.first")
	var commits atomic.Int64
	wait := make(chan struct{})
	release := sync.OnceFunc(func() { close(wait) })
	defer release() // before the engine is closed
	defer e.Hook(func(*bolt.Tx) error { commits.Add(1); <-wait; return nil })()
	done := make(chan struct{})
	all := keys("ann.room", 200)
	go func() {
		defer close(done)
		record(t, e.Once(), time.Hour, all...)
	}()
	for _, key := range all {
		until(t, "recorded", func() bool { return e.OnceHas(key) })
	}
	release()
	<-done
	if n := commits.Load(); n > 20 {
		t.Errorf("%d commits for %d replies", n, len(all))
	}
}

func BenchmarkOnce(b *testing.B) {
	s := open(b, config(b)).Once()
	var n atomic.Int64
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			key := fmt.Sprintf("client%d.room.%d", i%100, i)
			if mine, _, err := s.Begin(b.Context(), key, "h", time.Minute); !mine || err != nil {
				b.Error(mine, err)
				return
			}
			if _, err := s.Finish(b.Context(), key, "h", []byte("a reply of some bytes"), time.Minute); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
