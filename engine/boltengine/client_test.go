package boltengine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	bolt "go.etcd.io/bbolt"

	"bennu.example/engine/boltengine"
	"bennu.example/offline"
	"bennu.example/offline/offlinetest"
)

func TestClientSuite(t *testing.T) {
	offlinetest.Run(t, offlinetest.Config{New: func(t *testing.T) func() (offline.Store, error) {
		path := filepath.Join(t.TempDir(), "client.db")
		return func() (offline.Store, error) { return boltengine.OpenClient(path) }
	}})
}

// openClient opens a store until the test ends.
func openClient(t testing.TB, path string) offline.Store {
	t.Helper()
	s, err := boltengine.OpenClient(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func clientEntry(seq uint64, payload []byte) offline.Op {
	return offline.Op{Put: &offline.Entry{
		Seq: seq, ID: fmt.Sprint(seq), Topic: "room:1", Event: "msg", Payload: payload,
	}}
}

// clientSeqs returns the numbers of the entries of an identity.
func clientSeqs(t testing.TB, s offline.Store, identity string) (seqs []uint64) {
	t.Helper()
	if err := s.Load(t.Context(), identity, func(e offline.Entry, m *offline.Mirror) error {
		if m == nil {
			seqs = append(seqs, e.Seq)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return seqs
}

// fillClient makes a file with several identities and returns its contents.
func fillClient(t testing.TB, path string) []byte {
	t.Helper()
	s, err := boltengine.OpenClient(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		var ops []offline.Op
		for j := range 7 {
			ops = append(ops, clientEntry(uint64(i*7+j+1), bytes.Repeat([]byte{'x'}, i*60)))
		}
		topic := fmt.Sprint("room:", i%20)
		ops = append(ops, offline.Op{Keep: &offline.Mirror{Topic: topic, Kind: "state", Value: make([]byte, i*150)}})
		if err := s.Apply(t.Context(), fmt.Sprint("user-", i%3), ops); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A file that cannot be opened is a clear error, and is left as it is.
func TestClientBadFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "client.db")
	good := fillClient(t, path)
	page := os.Getpagesize()
	write := func(data []byte) string {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	later := func() string {
		return edit(t, write(good), func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("bennu client 2"))
		})
	}
	history := filepath.Join(dir, "history.db")
	fill(t, boltengine.Config{Path: history})
	for name, test := range map[string]struct {
		path func() string
		want string
	}{
		"no path":           {func() string { return "" }, "is empty"},
		"a directory":       {func() string { return dir }, "directory"},
		"no such directory": {func() string { return filepath.Join(dir, "none", "client.db") }, "none"},
		"text":              {func() string { return write([]byte(strings.Repeat("hello ", 10_000))) }, "not a client file"},
		"a short file":      {func() string { return write(good[:100]) }, "open"},
		"half":              {func() string { return write(good[:len(good)/2]) }, "damaged"},
		"only the head":     {func() string { return write(good[:2*page]) }, "damaged"},
		"no head":           {func() string { return write(append(make([]byte, 2*page), good[2*page:]...)) }, "damaged"},
		"a history file":    {func() string { return history }, "not a client file of this version"},
		"a later version":   {later, "version"},
		"a bucket is absent": {
			func() string { return without(t, write(good), "identities") }, "no bucket identities",
		},
	} {
		path := test.path()
		before, _ := os.ReadFile(path)
		s, err := boltengine.OpenClient(path)
		if err == nil {
			t.Errorf("%s: opened", name)
			_ = s.Close()
			continue
		}
		if !errors.Is(err, offline.ErrStore) || !strings.HasPrefix(err.Error(), "boltengine: ") ||
			!strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	// The failed attempts have released the file.
	s := openClient(t, write(good))
	if n := len(clientSeqs(t, s, "user-0")); n != 70 {
		t.Errorf("%d entries", n)
	}
	// An empty file is a new one, which an Engine refuses then.
	empty := filepath.Join(dir, "empty.db")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openClient(t, empty).Close(); err != nil {
		t.Fatal(err)
	}
	_, err := boltengine.New(boltengine.Config{Path: empty})
	if err == nil || !strings.Contains(err.Error(), "history file") {
		t.Errorf("an engine with the file of a client: %v", err)
	}
}

// A second store cannot use the file, in this process or in another.
func TestClientFileInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "client.db")
	s := openClient(t, path)
	_, err := boltengine.OpenClient(path)
	if !errors.Is(err, boltengine.ErrInUse) || !errors.Is(err, offline.ErrStore) {
		t.Errorf("in the same process: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	child := start(t, "-path", path, "-client", "-writers", "1")
	child.line()
	_, err = boltengine.OpenClient(path)
	if !errors.Is(err, boltengine.ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("in another process: %v", err)
	}
	child.stop()
	openClient(t, path)
}

// useClient does everything with a file that may be damaged. Errors are expected, panics are not.
func useClient(t testing.TB, path string) {
	t.Helper()
	s, err := boltengine.OpenClient(path)
	if err != nil {
		if !errors.Is(err, offline.ErrStore) {
			t.Error(err)
		}
		return
	}
	defer s.Close()
	check := func(err error) {
		if err != nil && !errors.Is(err, offline.ErrStore) {
			t.Error(err)
		}
	}
	for i := range 4 {
		identity := fmt.Sprint("user-", i)
		check(s.Load(t.Context(), identity, func(offline.Entry, *offline.Mirror) error { return nil }))
		check(s.Apply(t.Context(), identity, []offline.Op{
			{Forget: "room:3"}, {Drop: 7}, clientEntry(8, make([]byte, 5000)), clientEntry(1000, nil),
			{Keep: &offline.Mirror{Topic: "room:4", Kind: "state"}},
		}))
	}
	check(s.Purge(t.Context(), "user-1"))
	check(s.Load(t.Context(), "user-1", func(offline.Entry, *offline.Mirror) error { return nil }))
}

// Whatever bytes of the file are wrong, the process goes on.
func TestClientDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "client.db")
	good := fillClient(t, path)
	page := os.Getpagesize()
	rounds := 60
	if testing.Short() {
		rounds = 20
	}
	for i := range rounds {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		data := bytes.Clone(good)
		switch n := len(data) / page; i % 4 {
		case 0: // some bytes
			for range 1 + random.IntN(20) {
				data[random.IntN(len(data))] = byte(random.Uint32())
			}
		case 1: // heads of pages, which bbolt relies on
			for range 1 + random.IntN(4) {
				data[random.IntN(n)*page+random.IntN(64)] = byte(random.Uint32())
			}
		case 2: // a page instead of another
			from, to := random.IntN(n)*page, (2+random.IntN(n-2))*page
			copy(data[to:to+page], good[from:])
		case 3: // a torn write: the end is missing, but not the space
			clear(data[random.IntN(len(data)):])
		}
		t.Log("seed", i)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		useClient(t, path)
	}
}

// A file that is cut at any place is refused, or is complete.
func TestClientCutFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "client.db")
	good := fillClient(t, path)
	for size := 1; size < len(good); size += max(1, len(good)/97) {
		if err := os.WriteFile(path, good[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := boltengine.OpenClient(path)
		switch {
		case err == nil:
			if n := len(clientSeqs(t, s, "user-0")); n != 70 {
				t.Errorf("cut to %d of %d bytes, it has %d entries", size, len(good), n)
			}
			_ = s.Close()
		case !errors.Is(err, offline.ErrStore):
			t.Errorf("cut to %d bytes: %v", size, err)
		}
	}
}

// A changed byte of an entry is found when it is read, and other identities can be used.
func TestClientDamagedEntry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "client.db")
	fillClient(t, path)
	for _, bucket := range []string{"entries", "mirrors"} {
		edit(t, path, func(tx *bolt.Tx) error {
			own := tx.Bucket([]byte("identities")).Bucket([]byte("iuser-1")).Bucket([]byte(bucket))
			k, v := own.Cursor().Last()
			v = bytes.Clone(v)
			v[len(v)-1] ^= 1
			return own.Put(k, v)
		})
		s, err := boltengine.OpenClient(path)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Load(t.Context(), "user-1", func(offline.Entry, *offline.Mirror) error { return nil })
		if !errors.Is(err, offline.ErrStore) || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", bucket, err)
		}
		if n := len(clientSeqs(t, s, "user-0")); n != 70 {
			t.Errorf("another identity has %d entries", n)
		}
		if err := errors.Join(s.Purge(t.Context(), "user-0"), s.Apply(t.Context(), "user-1", nil)); err != nil {
			t.Error(err)
		}
		if n := len(clientSeqs(t, s, "user-1")); n != 0 {
			t.Errorf("%d entries after Purge", n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		fillClient(t, path)
	}
}

// A file that is truncated while it is in use is an error. Reading it through its mapping would be
// a fault that ends the process.
func TestClientTruncatedWhileOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not truncate mapped files")
	}
	path := filepath.Join(t.TempDir(), "client.db")
	fillClient(t, path)
	s := openClient(t, path)
	if err := os.Truncate(path, int64(2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	errs := []error{
		s.Load(t.Context(), "user-0", func(offline.Entry, *offline.Mirror) error { return nil }),
		s.Apply(t.Context(), "user-0", []offline.Op{clientEntry(1, nil)}),
		s.Purge(t.Context(), "user-1"),
	}
	for i, err := range errs {
		if !errors.Is(err, offline.ErrStore) {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

// A failed commit is reported to every caller and changes nothing. The store goes on.
func TestClientFailedCommit(t *testing.T) {
	boom := errors.New("no space left on device")
	for name, hook := range map[string]func(tx *bolt.Tx) error{
		"error": func(*bolt.Tx) error { return boom },
		"panic": func(*bolt.Tx) error { panic("page 7: invalid") },
		"fault": func(*bolt.Tx) error { return fault() },
	} {
		t.Run(name, func(t *testing.T) {
			s := openClient(t, filepath.Join(t.TempDir(), "client.db"))
			if err := s.Apply(t.Context(), "", []offline.Op{clientEntry(1, nil)}); err != nil {
				t.Fatal(err)
			}
			remove := boltengine.HookClient(s, hook)
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					err := s.Apply(t.Context(), "", []offline.Op{{Drop: 1}, clientEntry(uint64(2+i), nil)})
					if !errors.Is(err, offline.ErrStore) {
						t.Errorf("got %v, want ErrStore", err)
					}
				})
			}
			wg.Wait()
			remove()
			if seqs := clientSeqs(t, s, ""); len(seqs) != 1 || seqs[0] != 1 {
				t.Errorf("the entries are %v", seqs)
			}
			if err := s.Apply(t.Context(), "", []offline.Op{{Drop: 1}}); err != nil {
				t.Error(err)
			}
		})
	}
}

// Calls that wait while a commit is under way share the next one. A call whose context ends while
// it waits changes nothing.
func TestClientGroupCommit(t *testing.T) {
	s := openClient(t, filepath.Join(t.TempDir(), "client.db"))
	frozen, thaw := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(frozen) })
	remove := boltengine.HookClient(s, func(*bolt.Tx) error { once(); <-thaw; return nil })
	var wg sync.WaitGroup
	apply := func(ctx context.Context, seq uint64, want error) {
		wg.Go(func() {
			if err := s.Apply(ctx, "", []offline.Op{clientEntry(seq, nil)}); !errors.Is(err, want) {
				t.Errorf("%d: %v, want %v", seq, err, want)
			}
		})
	}
	apply(t.Context(), 1, nil)
	<-frozen
	ctx, cancel := context.WithCancel(t.Context())
	apply(ctx, 2, context.Canceled)
	for boltengine.WaitingClients(s) < 1 {
		runtime.Gosched()
	}
	cancel()
	for boltengine.WaitingClients(s) > 0 {
		runtime.Gosched()
	}
	for i := range 100 {
		apply(t.Context(), uint64(3+i), nil)
	}
	for boltengine.WaitingClients(s) < 100 {
		runtime.Gosched()
	}
	before := boltengine.ClientCommits(s)
	remove()
	close(thaw)
	wg.Wait()
	if n := boltengine.ClientCommits(s) - before; n > 3 {
		t.Errorf("101 calls took %d commits", n)
	}
	if n := len(clientSeqs(t, s, "")); n != 101 {
		t.Errorf("%d entries", n)
	}
}
