package boltengine_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
)

// pagesOf returns the ids of the pages of each type.
func pagesOf(t *testing.T, path string) map[string][]int {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ids := make(map[string][]int)
	err = db.View(func(tx *bolt.Tx) error {
		for id := 0; ; {
			p, err := tx.Page(id)
			if p == nil || err != nil {
				return err
			}
			ids[p.Type] = append(ids[p.Type], id)
			id += 1 + p.OverflowCount
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// formats returns where the bucket "meta" is in a file, which is within a leaf, and where in it the
// element of the key "format" is. The file may have older copies of it.
func formats(data []byte) (buckets, elements []int) {
	const header, element = 16, 16
	number := func(at int) int { return int(binary.NativeEndian.Uint32(data[at:])) }
	value := []byte("bennu history 1")
	for end := 0; ; {
		i := bytes.Index(data[end:], value)
		if i < 0 {
			return buckets, elements
		}
		start := end + i
		end = start + len(value)
		for at := start - element; at > start-200; at-- {
			if number(at+8) != len("format") || number(at+12) != len(value) || at+number(at+4)+number(at+8) != start {
				continue
			}
			bucket := at - header
			for binary.NativeEndian.Uint16(data[bucket+8:]) != 2 { // a leaf
				bucket -= element
			}
			buckets, elements = append(buckets, bucket), append(elements, at)
		}
	}
}

// A file whose pages are used twice, or with a bucket or a page that is not whole, is refused.
// bbolt would search a tree without an end, make pointers to anything, or allocate gigabytes, and
// the process would end.
func TestDamagedPages(t *testing.T) {
	cfg := config(t)
	cfg.Logger = silent()
	fill(t, cfg)
	pages := pagesOf(t, cfg.Path)
	if len(pages["branch"]) == 0 || len(pages["freelist"]) != 1 {
		t.Fatalf("the file has the pages %v", pages)
	}
	branch, list, size := pages["branch"][0], pages["freelist"][0], os.Getpagesize()
	const element = 16
	child := func(data []byte, i int) []byte { return data[branch*size+16+i*element+8:][:8] }
	leaf := func(data []byte) []byte { return data[int(binary.NativeEndian.Uint64(child(data, 1)))*size:] }
	for name, damage := range map[string]func(data []byte){
		"page below itself":       func(data []byte) { binary.NativeEndian.PutUint64(child(data, 0), uint64(branch)) },
		"two ways to a page":      func(data []byte) { copy(child(data, 1), child(data, 0)) },
		"page that is not one":    func(data []byte) { binary.NativeEndian.PutUint64(child(data, 0), 1<<40) },
		"key outside of a branch": func(data []byte) { data[branch*size+16+7] = 0x40 }, // a gigabyte
		"value outside of a leaf": func(data []byte) { leaf(data)[16+15] = 0x40 },
		"key outside of a leaf":   func(data []byte) { leaf(data)[16+11] = 0x40 },
		"leaf of no known type":   func(data []byte) { leaf(data)[8] = 0x20 },
		"free page in use": func(data []byte) {
			head := data[list*size:]
			binary.NativeEndian.PutUint16(head[10:], 1)
			copy(head[16:24], child(data, 0))
		},
		"more free pages than fit": func(data []byte) { binary.NativeEndian.PutUint16(data[list*size+10:], 60_000) },
		"element outside of its bucket": func(data []byte) {
			_, elements := formats(data)
			for _, at := range elements {
				binary.NativeEndian.PutUint32(data[at+4:], 1<<20)
			}
		},
		"more elements than fit": func(data []byte) {
			buckets, _ := formats(data)
			for _, at := range buckets {
				binary.NativeEndian.PutUint16(data[at+10:], 1000)
			}
		},
		"bucket in a bucket": func(data []byte) {
			_, elements := formats(data)
			for _, at := range elements {
				binary.NativeEndian.PutUint32(data[at:], 1)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(cfg.Path)
			if err != nil {
				t.Fatal(err)
			}
			damage(data)
			damaged := cfg
			damaged.Path = filepath.Join(t.TempDir(), "damaged.db")
			if err := os.WriteFile(damaged.Path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			e, err := boltengine.New(damaged)
			if err == nil {
				e.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "the file is damaged") {
				t.Errorf("opened with the error %v", err)
			}
		})
	}
	open(t, cfg)
}

// Files with trees of several levels and with many free pages are not refused.
func TestPagesOfLargeFiles(t *testing.T) {
	cfg := config(t)
	cfg.Logger = silent()
	cfg.NoSync = true // only to be faster
	for round := range 4 {
		e := open(t, cfg)
		stop := run(t, e, history.Inbox{})
		for topic := range 60 {
			name := fmt.Sprintf("room:%d:%d:%s", round, topic, strings.Repeat("n", topic))
			for i := range 40 {
				_, err := e.History().Append(t.Context(), name, history.Record{
					Event: "e", Payload: number(i), ID: fmt.Sprint(i),
				}, keep)
				if err != nil {
					t.Fatal(err)
				}
			}
			if topic%3 != 0 {
				if err := e.History().Forget(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
		stop()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if pages := pagesOf(t, cfg.Path); len(pages["branch"]) < 3 || len(pages["free"]) < 5 {
		t.Errorf("%d branches, %d free pages", len(pages["branch"]), len(pages["free"]))
	}
}
