package historytest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/history"
)

// feed is what a log fed to a node.
type feed struct {
	mu        sync.Mutex
	changed   chan struct{} // closed and replaced with each change
	records   map[string][]history.Record
	forgotten map[string]int
	gaps      int
}

func newFeed() *feed {
	return &feed{
		changed: make(chan struct{}), records: make(map[string][]history.Record), forgotten: make(map[string]int),
	}
}

func (f *feed) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *feed) inbox() history.Inbox {
	return history.Inbox{
		Record: func(topic string, r history.Record) {
			f.change(func() { f.records[topic] = append(f.records[topic], r) })
		},
		Forgotten: func(topic string) { f.change(func() { f.forgotten[topic]++ }) },
		Gap:       func(error) { f.change(func() { f.gaps++ }) },
	}
}

// waitFor waits until ok returns true, which is called under mu.
func (n *node) waitFor(what string, ok func() bool) {
	n.t.Helper()
	for timeout := time.After(patience); ; {
		n.mu.Lock()
		done, changed := ok(), n.changed
		n.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			n.t.Fatalf("not %s within %v", what, patience)
		}
	}
}

// watched is one Watch. The feed's mu guards it.
type watched struct {
	readies  int // calls of ready(nil)
	refusals int // calls of ready(err)
}

// watch starts the feed of a topic.
func (n *node) watch(topic string) *watched {
	w := new(watched)
	n.Watch(topic, func(err error) {
		n.change(func() {
			if err != nil {
				w.refusals++
			} else {
				w.readies++
			}
		})
	})
	return w
}

// watchNow starts the feed of a topic and waits for it.
func (n *node) watchNow(topic string) *watched {
	n.t.Helper()
	w := n.watch(topic)
	n.waitReady(topic, w, 1)
	return w
}

func (n *node) waitReady(topic string, w *watched, times int) {
	n.t.Helper()
	n.waitFor(fmt.Sprintf("ready to feed %q", topic), func() bool { return w.readies >= times })
}

// checkFeed waits until every record after the position from was fed, or Gap was called. Then it
// checks that nothing was fed but records of the log, with the record before each. The topic must
// be at rest, and have no more than 1,000 records after begin, which is its beginning.
func (n *node) checkFeed(topic string, begin, from history.Position) {
	n.t.Helper()
	all := n.read(topic, begin).Records
	index := make(map[history.Position]int)
	missing := make(map[history.Position]bool)
	for i, r := range all {
		index[r.Position] = i
		missing[r.Position] = r.Position.Offset() > from.Offset()
	}
	n.waitFor("fed", func() bool {
		for _, r := range n.records[topic] {
			missing[r.Position] = false
		}
		for _, m := range missing {
			if m && n.gaps == 0 {
				return false
			}
		}
		return true
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.records[topic] {
		i, ok := index[r.Position]
		switch {
		case !ok:
			n.t.Errorf("%v was fed, but is not in the log", r.Position)
		case text(r) != text(all[i]):
			n.t.Errorf("the feed has\n%s, the log\n%s", text(r), text(all[i]))
		case r.Prev.IsZero() || i > 0 && !r.Prev.Matches(all[i-1].Position) ||
			i == 0 && r.Prev.Tag() != "" && !r.Prev.IsBeginning():
			n.t.Errorf("%v was fed with Prev %v; it is record %d of the log", r.Position, r.Prev, i)
		}
	}
}

func skipInstant(t *testing.T, e Engine) {
	t.Helper()
	if instant(e.Log) {
		t.Skip("the feed of an instant log is not used")
	}
}

func feeds(t *testing.T, e Engine) {
	skipInstant(t, e)
	n := start(t, e.Log)
	begin := n.top("t")
	n.append("t", 3, keep)
	from := n.append("t", 1, keep)[0].Position
	n.watchNow("t")
	n.watchNow("")
	n.append("t", 20, keep)
	n.append("u", 3, keep)
	for _, topic := range []string{"*", "t:1", "t"} {
		n.append(topic, 1, keep)
	}
	n.checkFeed("t", begin, from)
	n.mu.Lock()
	for topic := range n.records {
		if topic != "t" {
			t.Errorf("%q was fed, which is not watched", topic)
		}
	}
	n.mu.Unlock()
	w := n.watchNow("\xff{>}.* ")
	begin = n.top("\xff{>}.* ")
	n.append("\xff{>}.* ", 3, keep)
	n.checkFeed("\xff{>}.* ", begin, begin)
	n.mu.Lock()
	defer n.mu.Unlock()
	if w.readies != 1 {
		t.Errorf("ready(nil) was called %d times for one Watch", w.readies)
	}
}

// watchThenRead watches topics to which a node appends all the time. After ready(nil), the top and
// the feed together have every record.
func watchThenRead(t *testing.T, e Engine) {
	skipInstant(t, e)
	n := start(t, e.Log)
	from := n
	if e.Node != nil {
		from = start(t, e.Node(t))
	}
	const topics, rest = 20, 10
	for i := range topics {
		topic := fmt.Sprint("t", i)
		begin := n.top(topic)
		read := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			left := rest
			for total := 0; left > 0 && total < 500; total++ {
				_, err := from.Append(t.Context(), topic, history.Record{Event: "e", Payload: object(i)}, long)
				if err != nil {
					t.Error(err)
					return
				}
				select {
				case <-read:
					left--
				default:
				}
			}
		}()
		n.watchNow(topic)
		top := n.top(topic)
		close(read)
		<-done
		n.checkFeed(topic, begin, top)
		n.Unwatch(topic)
	}
}

func unwatch(t *testing.T, e Engine) {
	skipInstant(t, e)
	n := start(t, e.Log)
	begin := n.top("t")
	n.watchNow("t")
	n.watchNow("other")
	n.append("t", 1, long)
	n.checkFeed("t", begin, begin)
	n.Unwatch("t")
	n.until("unwatched", func() bool {
		r, other := n.append("t", 1, long)[0], n.append("other", 1, long)[0]
		n.waitFor("fed", func() bool { return n.gaps > 0 || has(n.records["other"], other.Position) })
		n.mu.Lock()
		defer n.mu.Unlock()
		return !has(n.records["t"], r.Position)
	})
	for range 50 {
		_ = n.watch("t")
		n.Unwatch("t")
	}
	w := n.watchNow("t")
	from := n.top("t")
	n.append("t", 5, long)
	n.checkFeed("t", begin, from)
	n.mu.Lock()
	defer n.mu.Unlock()
	if w.readies != 1 {
		t.Errorf("ready(nil) was called %d times for one Watch", w.readies)
	}
}

func has(all []history.Record, p history.Position) bool {
	for _, r := range all {
		if r.Position == p {
			return true
		}
	}
	return false
}

// forgotten checks that a node learns that it has forgotten a topic itself.
func forgotten(t *testing.T, e Engine) {
	skipInstant(t, e)
	n := start(t, e.Log)
	n.append("t", 3, keep)
	n.watchNow("t")
	if err := n.Forget(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	n.waitFor("notified of Forget", func() bool { return n.forgotten["t"] > 0 || n.gaps > 0 })
	begin := n.top("t")
	last := n.append("t", 3, keep)[2]
	n.waitFor("fed", func() bool { return n.gaps > 0 || has(n.records["t"], last.Position) })
	if b := n.read("t", begin); len(b.Records) != 3 {
		t.Errorf("got %d records", len(b.Records))
	}
}

// goroutines checks that Run ends everything that it started.
func goroutines(t *testing.T, e Engine) {
	skipInstant(t, e)
	l := e.Log
	use := func(l history.Log) {
		n := start(t, l)
		for i := range 10 {
			n.watchNow(fmt.Sprint("t", i))
			n.append(fmt.Sprint("t", i), 5, keep)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = n.Append(ctx, "t", history.Record{Event: "e"}, keep)
		n.stop()
	}
	if e.Node != nil { // the store may start some when it is used for the first time
		use(l)
		l = e.Node(t)
	}
	before := runtime.NumGoroutine()
	use(l)
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before Run, %d after it\n%s", before, runtime.NumGoroutine(),
				strings.TrimSpace(string(buf[:runtime.Stack(buf, true)])))
		}
	}
	if _, err := l.Append(t.Context(), "t", history.Record{Event: "e"}, keep); !errors.Is(err, history.ErrUnavailable) {
		t.Errorf("Append after Run has returned: %v", err)
	}
}
