//go:build linux

package boltengine_test

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"bennu.example/history"
	"bennu.example/offline"
	"bennu.example/serializer"
)

// limitFiles makes writes beyond a size fail, as on a full disk, until the returned function is
// called.
func limitFiles(t *testing.T, size int64) (restore func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	limit := old
	limit.Cur = uint64(size)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	restore = sync.OnceFunc(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
		signal.Reset(syscall.SIGXFSZ)
	})
	t.Cleanup(restore)
	return restore
}

// When the disk is full, appends fail, and what was stored can be read. When there is room again,
// the log goes on without a hole.
func TestFullDisk(t *testing.T) {
	cfg := config(t)
	cfg.Logger = silent()
	e := open(t, cfg)
	log := e.History()
	stop := run(t, e, history.Inbox{})
	k := history.Keep{Count: 1000, Bytes: 64 << 20}
	r := history.Record{Event: "e", Payload: serializer.Binary(make([]byte, 50_000))}
	var stored []history.Record
	add := func() error {
		r, err := log.Append(t.Context(), "t", r, k)
		if err == nil {
			stored = append(stored, r)
		}
		return err
	}
	for range 3 {
		if err := add(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	restore := limitFiles(t, info.Size()+100_000)
	for err = add(); err == nil; err = add() {
		if len(stored) == k.Count {
			t.Fatal("the disk is never full")
		}
	}
	if !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("on a full disk: %v", err)
	}
	t.Logf("after %d records: %v", len(stored), err)
	for range 3 {
		if err := add(); err == nil {
			t.Error("on a full disk, an append returned nil")
		}
	}
	if h := log.Health(); h.Connected || h.Err == nil {
		t.Errorf("on a full disk: %+v", h)
	}
	check := func() {
		t.Helper()
		b, err := log.Before(t.Context(), "t", history.Position{}, k.Count)
		if err != nil || len(b.Records) != len(stored) {
			t.Fatalf("%d records, %v; want %d", len(b.Records), err, len(stored))
		}
		for i, r := range b.Records {
			if r.Position != stored[i].Position || i > 0 && r.Prev != stored[i-1].Position {
				t.Errorf("record %d is %v after %v, want %v", i, r.Position, r.Prev, stored[i].Position)
			}
		}
	}
	check()
	restore()
	until(t, "connected", func() bool { return log.Health().Connected })
	for range 5 {
		if err := add(); err != nil {
			t.Errorf("with room again: %v", err)
		}
	}
	check()
	stop()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open(t, cfg)
	log = e.History()
	check()
}

// When the disk is full, Apply fails as a whole, and what was stored can be read and removed. When
// there is room again, the store goes on.
func TestClientFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "client.db")
	s := openClient(t, path)
	stored := uint64(0)
	add := func() error {
		err := s.Apply(t.Context(), "", []offline.Op{
			clientEntry(stored+1, make([]byte, 30_000)), clientEntry(stored+2, make([]byte, 30_000)),
		})
		if err == nil {
			stored += 2
		}
		return err
	}
	// The limit is also that of the files of go test, which must be smaller than this.
	big := []offline.Op{clientEntry(1<<40, make([]byte, 4<<20))}
	if err := s.Apply(t.Context(), "other", big); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	restore := limitFiles(t, info.Size()+100_000)
	for failed := 0; failed < 4; { // in succession: a failure may be followed by the release of pages
		switch err := add(); {
		case err == nil && stored <= 1000:
			failed = 0
		case errors.Is(err, offline.ErrStore):
			failed++
		default:
			t.Fatalf("on a full disk: %v, with %d entries", err, stored)
		}
	}
	check := func() {
		t.Helper()
		if seqs := clientSeqs(t, s, ""); uint64(len(seqs)) != stored {
			t.Errorf("%d entries, want %d", len(seqs), stored)
		}
	}
	check()
	if err := s.Apply(t.Context(), "", []offline.Op{{Drop: stored}, {Drop: stored - 1}}); err != nil {
		t.Errorf("removing entries on a full disk: %v", err)
	} else {
		stored -= 2
	}
	check()
	if err := add(); err != nil { // into the space of those
		t.Errorf("on a full disk with free pages: %v", err)
	}
	restore()
	for range 5 {
		if err := add(); err != nil {
			t.Errorf("with room again: %v", err)
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openClient(t, path)
	check()
}
