package key_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/internal/testenv/require"
	"bennu.example/key"
)

// million is the number of keys whose order is tested.
const million = 1_000_000

// clock is a clock for tests. It does not advance by itself.
type clock struct{ milli int64 }

func (c *clock) now() time.Time { return time.UnixMilli(c.milli) }

// scripted returns the time of the i-th of a million keys: three keys in each millisecond, and a
// clock that goes back by an hour for every tenth thousand.
func scripted(i int) int64 {
	milli := int64(1_795_000_000_000 + i/3)
	if i/1000%10 == 9 {
		milli -= time.Hour.Milliseconds()
	}
	return milli
}

func TestKeysGrowStrictly(t *testing.T) {
	t.Parallel()
	last := ""
	for range million {
		k := key.New()
		if len(k) != 26 || k <= last {
			t.Fatalf("%q follows %q", k, last)
		}
		last = k
	}
}

func TestKeysOfGoroutinesAreUnique(t *testing.T) {
	t.Parallel()
	const each = 2000
	var g key.Generator
	var wg sync.WaitGroup
	lists := make([][]string, 8)
	for i := range lists {
		wg.Go(func() {
			last := ""
			for range each {
				k := g.New()
				if k <= last {
					t.Errorf("%q follows %q", k, last)
				}
				last = k
				lists[i] = append(lists[i], k)
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	for _, list := range lists {
		for _, k := range list {
			seen[k] = true
		}
	}
	if len(seen) != len(lists)*each {
		t.Errorf("%d different keys of %d", len(seen), len(lists)*each)
	}
}

// TestKeysOfGeneratorsAreUnique shows that a new millisecond has a new random part, and that keys
// of different generators of the same millisecond differ.
func TestKeysOfGeneratorsAreUnique(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 1000 {
		c := clock{milli: 1000}
		g := key.Generator{Now: c.now}
		first := g.New()
		c.milli++
		second := g.New()
		if first[10:] == second[10:] || first[:9] != second[:9] || seen[first[10:]] || seen[second[10:]] {
			t.Fatalf("%q, %q", first, second)
		}
		seen[first[10:]], seen[second[10:]] = true, true
	}
}

func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	c := clock{milli: 5000}
	g := key.Generator{Now: c.now}
	first := g.New()
	c.milli = 1
	for range 100 {
		k := g.New()
		if at, err := key.Time(k); k <= first || err != nil || at.UnixMilli() != 5000 {
			t.Fatalf("%q after %q: %v, %v", k, first, at, err)
		}
		first = k
	}
	c.milli = 5001
	if at, err := key.Time(g.New()); err != nil || at.UnixMilli() != 5001 {
		t.Errorf("%v, %v", at, err)
	}
}

func TestRandomPartOverflows(t *testing.T) {
	t.Parallel()
	c := clock{milli: 1234}
	g := key.Generator{Now: c.now}
	key.SetLast(&g, 1234, 1)
	keys := []string{g.New(), g.New(), g.New()}
	want := []string{"000000016jzzzzzzzzzzzzzzzz", "000000016k0000000000000000", "000000016k0000000000000001"}
	for i, k := range keys {
		if i > 0 && k <= keys[i-1] || k != want[i] {
			t.Errorf("key %d is %q, want %q", i, k, want[i])
		}
	}
}

// TestRandomPartCarries shows that both words of the random part are encoded and incremented.
func TestRandomPartCarries(t *testing.T) {
	t.Parallel()
	c := clock{milli: 0}
	g := key.Generator{Now: c.now}
	key.SetLast(&g, 7, 1<<63) // the upper half of the low word
	last := ""
	for range 100 {
		k := g.New()
		if k <= last {
			t.Fatalf("%q follows %q", k, last)
		}
		last = k
	}
	if want := "0000000007zzzr000000000033"; last != want {
		t.Errorf("the last key is %q, want %q", last, want)
	}
}

// TestClockOutOfRange shows that keys also grow if the clock is before 1970 or after the year
// 10889.
func TestClockOutOfRange(t *testing.T) {
	t.Parallel()
	c := clock{milli: -1}
	g := key.Generator{Now: c.now}
	if k := g.New(); k[:10] != "0000000000" {
		t.Errorf("before 1970: %q", k)
	}
	c.milli = 1 << 60
	last := g.New()
	if at, err := key.Time(last); err != nil || at.UnixMilli() != 1<<48-2 {
		t.Errorf("the last millisecond: %q, %v, %v", last, at, err)
	}
	key.SetLast(&g, 1<<48-2, 0)
	if k := g.New(); k <= last || k != "7zzzzzzzzz0000000000000000" {
		t.Errorf("after the last millisecond: %q follows %q", k, last)
	}
}

func TestTime(t *testing.T) {
	t.Parallel()
	for text, milli := range map[string]int64{
		"00000000000000000000000000": 0,
		"7zzzzzzzzzzzzzzzzzzzzzzzzz": 1<<48 - 1,
		"000000016jzzzzzzzzzzzzzzzz": 1234,
	} {
		if at, err := key.Time(text); err != nil || at.UnixMilli() != milli {
			t.Errorf("%q: %v, %v, want %d", text, at, err, milli)
		}
	}
	for name, text := range map[string]string{
		"empty":          "",
		"too short":      "0000000000000000000000000",
		"too long":       "000000000000000000000000000",
		"48 bits":        "80000000000000000000000000",
		"upper case":     "0000000000000000000000000A",
		"letter i":       "0000000000000000000000000i",
		"not ASCII":      "000000000000000000000000ü",
		"in the time":    "0000u000000000000000000000",
		"zero byte":      "0000000000\x000000000000000000",
		"above the rest": "0000000000{000000000000000",
	} {
		if at, err := key.Time(text); !errors.Is(err, key.ErrInvalid) || !at.IsZero() {
			t.Errorf("%s: %v, %v", name, at, err)
		}
	}
}

// FuzzTime checks that a text that Time accepts is the only text of its key.
func FuzzTime(f *testing.F) {
	f.Add("000000016jzzzzzzzzzzzzzzzz")
	f.Add("80000000000000000000000000")
	f.Add(key.New())
	f.Fuzz(func(t *testing.T, text string) {
		at, err := key.Time(text)
		if err != nil {
			if !errors.Is(err, key.ErrInvalid) || !at.IsZero() {
				t.Fatalf("%q: %v, %v", text, at, err)
			}
			return
		}
		if len(text) != 26 || strings.ToLower(text) != text || strings.ContainsAny(text, "ilou") {
			t.Fatalf("%q was accepted", text)
		}
		g := key.Generator{Now: func() time.Time { return at }}
		if made := g.New(); at.UnixMilli() < 1<<48-1 && made[:10] != text[:10] {
			t.Fatalf("%q has the time %v, whose keys begin with %q", text, at, made[:10])
		}
	})
}

// TestJavaScript runs the generator of the guide with the clock of scripted, and compares its keys
// with those of a Generator.
func TestJavaScript(t *testing.T) {
	t.Parallel()
	node := require.Program(t, "node")
	guide, err := os.ReadFile(filepath.Join("..", "docs", "client.md"))
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("(?s)```js\n(const digits.*?)```").FindSubmatch(guide)
	if code == nil {
		t.Fatal("docs/client.md has no generator")
	}
	script := string(code[1]) + `
		const at = i => 1795000000000 + Math.floor(i / 3) - (Math.floor(i / 1000) % 10 === 9 ? 3600000 : 0)
		const keys = []
		for (let i = 0; i < 1000000; i++) keys.push(newKey(at(i)))
		process.stdout.write(keys.join("\n") + "\n")
	`
	cmd := exec.CommandContext(t.Context(), node, "--input-type=module", "-")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var problems strings.Builder
	cmd.Stderr = &problems
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var c clock
	g := key.Generator{Now: c.now}
	last, n := "", 0
	for lines := bufio.NewScanner(out); lines.Scan(); n++ {
		c.milli = scripted(n)
		got, want := lines.Text(), g.New()
		if _, err := key.Time(got); err != nil || got <= last || got[:10] != want[:10] {
			t.Errorf("key %d is %q after %q, and in Go %q: %v", n, got, last, want, err)
			break
		}
		last = got
	}
	_, _ = bufio.NewReader(out).WriteTo(&problems) // if the loop was left early
	if err := cmd.Wait(); err != nil {
		t.Fatalf("node: %v\n%s", err, &problems)
	}
	if n != million {
		t.Errorf("%d keys", n)
	}
}
