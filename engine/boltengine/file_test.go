package boltengine_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
)

// fill opens an engine, appends records of several topics, and closes it. It returns the newest
// position of each topic.
func fill(t testing.TB, cfg boltengine.Config) map[string]history.Position {
	t.Helper()
	e := open(t, cfg)
	stop := run(t, e, history.Inbox{})
	tops := make(map[string]history.Position)
	for i := range 300 {
		topic := fmt.Sprint("room:", i%7)
		r, err := e.History().Append(t.Context(), topic, history.Record{
			Event: "e", Payload: number(i), ID: []string{"", fmt.Sprint(i)}[i%2],
		}, keep)
		if err != nil {
			t.Fatal(err)
		}
		tops[topic] = r.Position
	}
	stop()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return tops
}

// Positions, contents and order are the same after a restart, and the log goes on from there.
func TestRestart(t *testing.T) {
	cfg := config(t)
	tops := fill(t, cfg)
	for range 3 {
		e := open(t, cfg)
		log := e.History()
		stop := run(t, e, history.Inbox{})
		for topic, top := range tops {
			if got := topOf(t, log, topic); got != top {
				t.Errorf("%s has the top %v, want %v", topic, got, top)
			}
			r := appendTo(t, log, topic, 1)
			if r.Prev != top {
				t.Errorf("%s goes on after %v, want %v", topic, r.Prev, top)
			}
			tops[topic] = r.Position
		}
		if err := log.Forget(t.Context(), "room:0"); err != nil {
			t.Fatal(err)
		}
		tops["room:0"] = topOf(t, log, "room:0")
		tops["unknown"] = topOf(t, log, "unknown")
		stop()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFileMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has other permissions")
	}
	cfg := config(t)
	cfg.NoSync = true
	open(t, cfg)
	for _, name := range []string{cfg.Path, cfg.Path + ".nosync"} {
		info, err := os.Stat(name)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// A file that cannot be opened is a clear error.
func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	cfg := boltengine.Config{Path: filepath.Join(dir, "good.db")}
	fill(t, cfg)
	good, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	zeroed := append(make([]byte, 2*os.Getpagesize()), good[2*os.Getpagesize():]...)
	noFree := append([]byte(nil), good...)
	for i := 2 * os.Getpagesize(); i < len(noFree); i++ {
		noFree[i] = 0xff
	}
	other := filepath.Join(dir, "other.db")
	db, err := bolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("users"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ path, want string }{
		"no path":            {"", "Config.Path is empty"},
		"a directory":        {dir, "directory"},
		"no such directory":  {filepath.Join(dir, "none", "history.db"), "no such file"},
		"text":               {write("text", []byte(strings.Repeat("hello ", 10_000))), "is not a history file"},
		"a short file":       {write("short", good[:100]), "open"},
		"half":               {write("half", good[:len(good)/2]), "damaged"},
		"only the head":      {write("head", good[:2*os.Getpagesize()]), "damaged"},
		"no head":            {write("no head", zeroed), "damaged"},
		"everything else":    {write("no free", noFree), "damaged"},
		"another database":   {other, "not a history file"},
		"a later version":    {later(t, write("later", good)), "version"},
		"a bucket is absent": {without(t, write("without", good), "ids"), "no bucket ids"},
	} {
		e, err := boltengine.New(boltengine.Config{Path: test.path})
		if err == nil {
			t.Errorf("%s: opened", name)
			_ = e.Close()
			continue
		}
		if !strings.HasPrefix(err.Error(), "boltengine: ") || !strings.Contains(err.Error(), test.want) ||
			!strings.Contains(err.Error(), test.path) {
			t.Errorf("%s: %v", name, err)
		}
		if test.path == "" || test.path == dir {
			continue
		}
		// The failed attempt has released the file.
		if _, err := os.Stat(test.path); err == nil {
			open(t, boltengine.Config{Path: write(filepath.Base(test.path), good)})
		}
	}
	// An empty file is a new one.
	open(t, boltengine.Config{Path: write("empty", nil)})
}

// edit changes a file with bbolt.
func edit(t *testing.T, path string, f func(tx *bolt.Tx) error) string {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(f), db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func later(t *testing.T, path string) string {
	return edit(t, path, func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("bennu history 2"))
	})
}

func without(t *testing.T, path, bucket string) string {
	return edit(t, path, func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(bucket)) })
}

// use does everything with a log that may be damaged. Errors are expected, panics are not.
func use(t testing.TB, cfg boltengine.Config, tops map[string]history.Position) {
	t.Helper()
	e, err := boltengine.New(cfg)
	if err != nil {
		return
	}
	defer e.Close()
	log := e.History()
	done := make(chan error)
	ctx, stop := contextOf(t)
	go func() {
		done <- log.Run(ctx, history.Inbox{
			Record: func(string, history.Record) {}, Forgotten: func(string) {}, Gap: func(error) {},
		})
	}()
	until(t, "running", func() bool { h := log.Health(); return h.Connected || h.Err != nil && e.Started() })
	k := keep
	k.Count = 10
	for topic, top := range tops {
		_, _ = log.Before(t.Context(), topic, history.Position{}, 1000)
		_, _ = log.Read(t.Context(), topic, top, 1000)
		_, _ = log.Tops(t.Context(), []string{topic})
		_, _ = log.Append(t.Context(), topic, history.Record{Event: "e", ID: "i"}, k)
		_, _ = log.Append(t.Context(), topic, history.Record{Event: "e", ID: "new"}, k)
		if rand.IntN(3) == 0 {
			_ = log.Forget(t.Context(), topic)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// Whatever bytes of the file are wrong, the process goes on.
func TestDamagedFiles(t *testing.T) {
	cfg := config(t)
	cfg.Logger = silent()
	tops := fill(t, cfg)
	good, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	rounds := 80
	if testing.Short() {
		rounds = 20
	}
	cfg.NoSync = true // only to be faster
	for i := range rounds {
		seed := uint64(i)
		random := rand.New(rand.NewPCG(seed, seed))
		data := append([]byte(nil), good...)
		switch i % 4 {
		case 0: // some bytes
			for range 1 + random.IntN(20) {
				data[random.IntN(len(data))] = byte(random.Uint32())
			}
		case 1: // heads of pages, which bbolt relies on
			for range 1 + random.IntN(4) {
				at := random.IntN(len(data)/os.Getpagesize())*os.Getpagesize() + random.IntN(64)
				data[at] = byte(random.Uint32())
			}
		case 2: // a page instead of another
			n := len(data) / os.Getpagesize()
			from, to := random.IntN(n)*os.Getpagesize(), (2+random.IntN(n-2))*os.Getpagesize()
			copy(data[to:to+os.Getpagesize()], good[from:])
		case 3: // the end is missing, but not the space
			at := random.IntN(len(data))
			clear(data[at:])
		}
		path := filepath.Join(t.TempDir(), "damaged.db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg.Path = path
		t.Log("seed", i)
		use(t, cfg, tops)
	}
}

// A file that is truncated while it is in use is an error. Reading it through its mapping would be
// a fault that ends the process.
func TestTruncatedWhileOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not truncate mapped files")
	}
	cfg := config(t)
	cfg.Logger = silent()
	tops := fill(t, cfg)
	e := open(t, cfg)
	log := e.History()
	run(t, e, history.Inbox{})
	if err := os.Truncate(cfg.Path, int64(2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	for topic, top := range tops {
		if _, err := log.Read(t.Context(), topic, top, 10); !errors.Is(err, history.ErrUnavailable) {
			t.Errorf("Read: %v", err)
		}
		if _, err := log.Append(t.Context(), topic, history.Record{Event: "e"}, keep); err == nil {
			t.Error("Append returned nil")
		}
	}
	if h := log.Health(); h.Connected || h.Err == nil {
		t.Errorf("got %+v", h)
	}
}

// A second engine cannot use the file, in this process or in another.
func TestFileInUse(t *testing.T) {
	cfg := config(t)
	e := open(t, cfg)
	if _, err := boltengine.New(cfg); !errors.Is(err, boltengine.ErrInUse) {
		t.Errorf("in the same process: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	child := start(t, "-path", cfg.Path)
	child.line()
	if _, err := boltengine.New(cfg); !errors.Is(err, boltengine.ErrInUse) || !strings.Contains(err.Error(), cfg.Path) {
		t.Errorf("in another process: %v", err)
	}
	child.stop()
	open(t, cfg)
}

// After an unclean end without sync the log is empty and has another epoch. After Close it is as
// it was.
func TestNoSync(t *testing.T) {
	for _, next := range []bool{false, true} {
		t.Run(fmt.Sprint("then NoSync ", next), func(t *testing.T) {
			cfg := config(t)
			cfg.NoSync = true
			tops := fill(t, cfg)
			if _, err := os.Stat(cfg.Path + ".nosync"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after Close the mark is left: %v", err)
			}
			e := open(t, cfg)
			for topic, top := range tops {
				if got := topOf(t, e.History(), topic); got != top {
					t.Errorf("%s has the top %v, want %v", topic, got, top)
				}
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			child := start(t, "-path", cfg.Path, "-nosync")
			child.line()
			child.stop()

			cfg.NoSync = next
			e = open(t, cfg)
			for topic, top := range tops {
				if _, err := e.History().Read(t.Context(), topic, top, 10); !errors.Is(err, history.ErrEpoch) {
					t.Errorf("a position from before the unclean end: %v", err)
				}
			}
			if n, err := e.Topics(); err != nil || n != 0 {
				t.Errorf("%d topics, %v", n, err)
			}
			stop := run(t, e, history.Inbox{})
			r := appendTo(t, e.History(), "t", 1)
			stop()
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			if top := topOf(t, open(t, cfg).History(), "t"); top != r.Position {
				t.Errorf("the top is %v, want %v", top, r.Position)
			}
		})
	}
}

// A damaged file does not keep a log without sync from starting after an unclean end.
func TestNoSyncAfterPowerLoss(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"garbage":   func(path string) error { return os.WriteFile(path, []byte("garbage"), 0o600) },
		"truncated": func(path string) error { return os.Truncate(path, 5000) },
		"gone":      os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.NoSync = true
			fill(t, cfg)
			if err := errors.Join(damage(cfg.Path), os.WriteFile(cfg.Path+".nosync", nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			e := open(t, cfg)
			run(t, e, history.Inbox{})
			appendTo(t, e.History(), "t", 1)
		})
	}
}
