package historytest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"bennu.example/history"
)

// The answers of Read, as the table has them. A number is the number of records.
const (
	epoch   = "epoch"
	trimmed = "trimmed"
	ahead   = "ahead"
	wrong   = "tag"
)

func answer(b history.Batch, err error) string {
	switch {
	case err == nil:
		return fmt.Sprint(len(b.Records))
	case errors.Is(err, history.ErrEpoch):
		return epoch
	case errors.Is(err, history.ErrTrimmed):
		return trimmed
	case errors.Is(err, history.ErrAhead):
		return ahead
	case errors.Is(err, history.ErrTag):
		return wrong
	}
	return err.Error()
}

// lost reports whether an answer is right for a position that was forgotten.
func (e Engine) lost(got string) bool {
	return got == epoch || e.KeepsEpoch && (got == trimmed || got == wrong || got == ahead)
}

// right reports whether an answer is right for a position in a state.
func (e Engine) right(state, position, got, want string) bool {
	forgotten := (state == "forgotten" || state == "rewritten") && want == epoch
	if forgotten && !strings.HasPrefix(position, "foreign") && position != "longer epoch" {
		return e.lost(got)
	}
	return got == want
}

// retagged returns p with another tag.
func retagged(t testing.TB, p history.Position) history.Position {
	t.Helper()
	for {
		if q := position(t, p.Epoch(), p.Offset(), history.NewTag()); q != p {
			return q
		}
	}
}

func position(t testing.TB, epoch string, offset uint64, tag string) history.Position {
	t.Helper()
	p, err := history.NewPosition(epoch, offset, tag)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// readTable reads after every kind of position in every state of a log. Ten records were appended
// in each state, except "empty". The positions are those of these records.
func readTable(t *testing.T, e Engine) {
	n := start(t, e.Log)
	states := []string{"records", "empty", "trimmed", "expired", "forgotten", "rewritten", "restarted"}
	table := []struct {
		position string
		want     [7]string // by state
	}{
		//                  records  empty    trimmed  expired  forgot.  rewrit.  restarted
		{"zero", [...]string{"zero", "zero", "zero", "zero", "zero", "zero", "zero"}},
		{"beginning", [...]string{"10", "0", trimmed, trimmed, epoch, epoch, "10"}},
		{"first", [...]string{"9", "", trimmed, trimmed, epoch, epoch, "9"}},
		{"fourth", [...]string{"6", "", trimmed, trimmed, epoch, epoch, "6"}},
		{"fifth", [...]string{"5", "", "5", trimmed, epoch, epoch, "5"}},
		{"sixth", [...]string{"4", "", "4", trimmed, epoch, epoch, "4"}},
		{"ninth", [...]string{"1", "", "1", trimmed, epoch, epoch, "1"}},
		{"top", [...]string{"0", "", "0", "0", epoch, epoch, "0"}},
		{"beyond", [...]string{ahead, ahead, ahead, ahead, epoch, epoch, ahead}},
		{"far beyond", [...]string{ahead, ahead, ahead, ahead, epoch, epoch, ahead}},
		{"foreign", [...]string{epoch, epoch, epoch, epoch, epoch, epoch, epoch}},
		{"foreign beginning", [...]string{epoch, epoch, epoch, epoch, epoch, epoch, epoch}},
		{"longer epoch", [...]string{epoch, epoch, epoch, epoch, epoch, epoch, epoch}},
		{"beginning, wrong tag", [...]string{wrong, wrong, trimmed, trimmed, epoch, epoch, wrong}},
		{"first, wrong tag", [...]string{wrong, "", trimmed, trimmed, epoch, epoch, wrong}},
		{"fourth, wrong tag", [...]string{wrong, "", trimmed, trimmed, epoch, epoch, wrong}},
		{"fifth, wrong tag", [...]string{wrong, "", wrong, trimmed, epoch, epoch, wrong}},
		{"sixth, wrong tag", [...]string{wrong, "", wrong, trimmed, epoch, epoch, wrong}},
		{"top, wrong tag", [...]string{wrong, "", wrong, wrong, epoch, epoch, wrong}},
		{"fifth as a beginning", [...]string{wrong, "", wrong, trimmed, epoch, epoch, wrong}},
		{"top as a beginning", [...]string{wrong, "", wrong, wrong, epoch, epoch, wrong}},
		{"new beginning", [...]string{"10", "0", trimmed, trimmed, "0", "3", "10"}},
	}
	positions := map[string]map[string]history.Position{}
	for _, state := range states {
		positions[state] = n.prepare(state)
	}
	for i, state := range states {
		if state == "restarted" {
			if e.Restart == nil {
				t.Log("Restart is not tested")
				continue
			}
			n = start(t, e.Restart(t))
		}
		for _, row := range table {
			want := row.want[i]
			if want == "" {
				continue
			}
			if state == "restarted" && !e.Durable && want != "zero" {
				want = epoch
			}
			b, err := n.Read(t.Context(), state, positions[state][row.position], 1000)
			got := answer(b, err)
			if errors.Is(err, history.ErrPosition) {
				got = "zero"
			}
			if !e.right(state, row.position, got, want) {
				t.Errorf("%s, after %s (%v): got %s, want %s", state, row.position, positions[state][row.position], got, want)
			}
			if err == nil && (b.After != positions[state][row.position] || b.Top != n.top(state) || b.More) {
				t.Errorf("%s, after %s: got %v, %v, %v", state, row.position, b.After, b.Top, b.More)
			}
		}
	}
}

// prepare brings a topic into a state, except that it restarts nothing, and returns positions.
func (n *node) prepare(state string) map[string]history.Position {
	n.t.Helper()
	t, k := n.t, keep
	n.Watch(state, func(error) {}) // so that what happens to other topics does not change this one's epoch
	switch state {
	case "trimmed":
		k.Count = 5
	case "expired":
		k.Age = 20 * time.Millisecond
	}
	begin := n.top(state)
	at := map[string]history.Position{"zero": {}, "beginning": begin, "new beginning": begin}
	top := begin
	if state != "empty" {
		all := n.append(state, 10, k)
		top = all[9].Position
		for i, name := range map[int]string{0: "first", 3: "fourth", 4: "fifth", 5: "sixth", 8: "ninth", 9: "top"} {
			at[name] = all[i].Position
		}
		for _, name := range []string{"first", "fourth", "fifth", "sixth", "top"} {
			at[name+", wrong tag"] = retagged(t, at[name])
		}
		at["fifth as a beginning"] = position(t, begin.Epoch(), at["fifth"].Offset(), "0000")
		at["top as a beginning"] = position(t, begin.Epoch(), top.Offset(), "0000")
	}
	at["beyond"] = position(t, begin.Epoch(), top.Offset()+1, "abcd")
	at["far beyond"] = position(t, begin.Epoch(), 1<<53-1, "abcd")
	at["foreign"] = position(t, "0", top.Offset(), top.Tag())
	at["foreign beginning"] = position(t, "0", 0, "0000")
	at["longer epoch"] = position(t, begin.Epoch()+"0", top.Offset(), top.Tag())
	at["beginning, wrong tag"] = retagged(t, begin)
	switch state {
	case "expired":
		n.until("expired", func() bool {
			b, err := n.Before(t.Context(), state, history.Position{}, 10)
			return err == nil && len(b.Records) == 0
		})
	case "forgotten", "rewritten":
		if err := n.Forget(t.Context(), state); err != nil {
			t.Fatal(err)
		}
		at["new beginning"] = n.top(state)
	}
	if state == "rewritten" {
		n.append(state, 3, keep)
	}
	return at
}

func pages(t *testing.T, e Engine) {
	n := start(t, e.Log)
	begin := n.top("t")
	if b, err := n.Before(t.Context(), "t", history.Position{}, 10); err != nil || len(b.Records) > 0 || b.More ||
		b.After != begin || b.Top != begin {
		t.Errorf("of an empty topic: %+v, %v", b, err)
	}
	all := n.append("t", 10, keep)
	before := history.Position{}
	for end := 10; end > 0; end -= 4 {
		b, err := n.Before(t.Context(), "t", before, 4)
		if err != nil {
			t.Fatal(err)
		}
		from := max(end-4, 0)
		n.same(b.Records, all[from:end])
		after := begin
		if from > 0 {
			after = all[from-1].Position
		}
		if b.After != after || b.More != (from > 0) || b.Top != all[9].Position {
			t.Errorf("before %d: got %v, %v, %v", end, b.After, b.Top, b.More)
		}
		before = b.Records[0].Position
	}
	for _, p := range []history.Position{before, begin} { // the first record, and before it
		if b, err := n.Before(t.Context(), "t", p, 4); err != nil || len(b.Records) > 0 || b.More || b.After != begin {
			t.Errorf("before %v: %+v, %v", p, b, err)
		}
	}
}

func pagesBadPositions(t *testing.T, e Engine) {
	n := start(t, e.Log)
	table := map[string]map[string]string{
		"records": {
			"zero": "10", "beginning": "0", "first": "0", "sixth": "5", "top": "9", "beyond": ahead, "foreign": epoch,
			"first, wrong tag": wrong, "sixth, wrong tag": wrong, "top, wrong tag": wrong, "beginning, wrong tag": wrong,
			"fifth as a beginning": wrong,
		},
		"empty": {"zero": "0", "beginning": "0", "beyond": ahead, "foreign": epoch, "beginning, wrong tag": wrong},
		"trimmed": {
			"zero": "5", "beginning": "0", "first": trimmed, "fifth": trimmed, "sixth": "0", "top": "4", "beyond": ahead,
			"first, wrong tag": trimmed, "sixth, wrong tag": wrong,
		},
		"expired":   {"zero": "0", "first": trimmed, "top": trimmed, "beyond": ahead, "top, wrong tag": wrong},
		"forgotten": {"zero": "0", "first": epoch, "top": epoch, "beginning": epoch, "new beginning": "0"},
		"rewritten": {"zero": "3", "first": epoch, "top": epoch, "beginning": epoch, "new beginning": "0"},
	}
	for state, row := range table {
		at := n.prepare(state)
		for name, want := range row {
			b, err := n.Before(t.Context(), state, at[name], 1000)
			if got := answer(b, err); !e.right(state, name, got, want) {
				t.Errorf("%s, before %s (%v): got %s, want %s", state, name, at[name], got, want)
			}
			if err == nil && b.Top != n.top(state) {
				t.Errorf("%s, before %s: the top is %v", state, name, b.Top)
			}
		}
	}
}

func ids(t *testing.T, e Engine) {
	n := start(t, e.Log)
	k := keep
	k.Count = 3
	add := func(topic, id string) history.Record {
		t.Helper()
		r, err := n.Append(t.Context(), topic, history.Record{Event: "e", ID: id}, k)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	begin := n.top("t")
	first := add("t", "a")
	if again := add("t", "a"); again.Position != first.Position || again.ID != "a" {
		t.Errorf("the second append with an ID returned %+v", again)
	}
	if other := add("u", "a"); other.Position == first.Position {
		t.Error("another topic knows the ID")
	}
	second := add("t", "b")
	none := add("t", "")
	if r := add("t", ""); r.Position == none.Position {
		t.Error("records without an ID are the same")
	}
	if r := add("t", "b"); r.Position != second.Position {
		t.Error("the ID of a retained record was not recognised")
	}
	if r := add("t", "a"); r.Position.Offset() <= second.Position.Offset() {
		t.Error("the ID of a removed record was recognised")
	}
	if b, err := n.Read(t.Context(), "t", begin, 10); !errors.Is(err, history.ErrTrimmed) {
		t.Errorf("%v, %v", b, err)
	}
	if b := n.read("t", second.Position); len(b.Records) != 3 {
		t.Errorf("got %d records", len(b.Records))
	}
}

func concurrentIDs(t *testing.T, e Engine) {
	n := start(t, e.Log)
	begin := n.top("t")
	got := make([]history.Position, 10)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			r, err := n.Append(t.Context(), "t", history.Record{Event: "e", ID: "a"}, keep)
			if err != nil {
				t.Error(err)
			}
			got[i] = r.Position
		})
	}
	wg.Wait()
	b := n.read("t", begin)
	if len(b.Records) != 1 {
		t.Fatalf("got %d records", len(b.Records))
	}
	for _, p := range got {
		if p != b.Top {
			t.Errorf("got %v, want %v", p, b.Top)
		}
	}
}

func tops(t *testing.T, e Engine) {
	n := start(t, e.Log)
	a := n.append("a", 3, keep)[2].Position
	b := n.append("b", 1, keep)[0].Position
	got, err := n.Tops(t.Context(), []string{"b", "none", "a", "b"})
	if err != nil || len(got) != 4 || got[0] != b || !got[1].IsBeginning() || got[2] != a || got[3] != b {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := n.Tops(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("of no topics: %v, %v", got, err)
	}
}

func readingCreatesNothing(t *testing.T, e Engine) {
	if e.Topics == nil {
		t.Skip("Topics is nil")
	}
	n := start(t, e.Log)
	n.append("t", 1, keep)
	before := e.Topics(t)
	p := position(t, "0", 5, "abcd")
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 250 {
				topic := fmt.Sprintf("unknown %d %d", w, i)
				_, _ = n.Read(t.Context(), topic, p, 10)
				_, _ = n.Before(t.Context(), topic, p, 10)
				_, _ = n.Before(t.Context(), topic, history.Position{}, 10)
				_, _ = n.Tops(t.Context(), []string{topic})
				n.Watch(topic, func(error) {})
				n.Unwatch(topic)
			}
		})
	}
	wg.Wait()
	if after := e.Topics(t); after != before {
		t.Errorf("%d topics before, %d after", before, after)
	}
}

func forget(t *testing.T, e Engine) {
	n := start(t, e.Log)
	old := n.append("t", 3, keep)[2].Position
	other := n.append("u", 3, keep)
	if err := n.Forget(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	begin := n.top("t")
	if !e.KeepsEpoch && begin.Epoch() == old.Epoch() {
		t.Errorf("the epoch is still %s", begin.Epoch())
	}
	all := n.append("t", 2, keep)
	if b, err := n.Read(t.Context(), "t", old, 10); !e.lost(answer(b, err)) {
		t.Errorf("a forgotten position: %v", err)
	}
	n.same(n.read("t", begin).Records, all)
	n.same(n.read("u", other[0].Position).Records, other[1:])
	unknown := n.top("unknown")
	if err := n.Forget(t.Context(), "unknown"); err != nil {
		t.Fatal(err)
	}
	if b, err := n.Read(t.Context(), "unknown", unknown, 10); !e.lost(answer(b, err)) {
		t.Errorf("the forgotten beginning of an unknown topic: %v", err)
	}
}

func forgetUnderLoad(t *testing.T, e Engine) {
	n := start(t, e.Log)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				before := n.top("t")
				r, err := n.Append(t.Context(), "t", history.Record{Event: "e"}, keep)
				if err != nil {
					t.Error(err)
					return
				}
				b, err := n.Read(t.Context(), "t", before, 1000)
				found := false
				for _, read := range b.Records {
					found = found || read.Position == r.Position
				}
				// Either nothing was forgotten between the two reads, or the answer says so.
				if !found && !errors.Is(err, history.ErrEpoch) && !errors.Is(err, history.ErrTrimmed) {
					t.Errorf("read after %v: %d records without %v, %v", before, len(b.Records), r.Position, err)
				}
			}
		})
	}
	for range 50 {
		top := n.top("t")
		if err := n.Forget(t.Context(), "t"); err != nil {
			t.Error(err)
		}
		if b, err := n.Read(t.Context(), "t", top, 10); !e.lost(answer(b, err)) {
			t.Errorf("after Forget: %v", err)
		}
	}
	cancel()
	wg.Wait()
}

func rollback(t *testing.T, e Engine) {
	if e.Rollback == nil {
		t.Skip("Rollback is nil")
	}
	n := start(t, e.Log)
	all := n.append("t", 10, keep)
	e.Rollback(t, "t", 3)
	for _, r := range all[7:] {
		b, err := n.Read(t.Context(), "t", r.Position, 10)
		if got := answer(b, err); got != ahead {
			t.Errorf("after the lost record %v: %s", r.Position, got)
		}
	}
	n.append("t", 5, keep)
	for _, r := range all[7:] {
		b, err := n.Read(t.Context(), "t", r.Position, 10)
		if got := answer(b, err); got != wrong {
			t.Errorf("after the rewritten record %v: %s", r.Position, got)
		}
	}
}

func health(t *testing.T, e Engine) {
	n := start(t, e.Log)
	n.append("t", 3, keep)
	_, _ = n.Append(t.Context(), "t", history.Record{Event: "e", ID: string(make([]byte, 100))}, keep)
	h := n.Health()
	if !h.Connected || h.Since.IsZero() || h.Err != nil || h.Appended != 3 || h.Failed != 1 || h.Gaps != 0 {
		t.Errorf("got %+v", h)
	}
}

// run checks that Run returns when its context ends, and that the watched topic keeps its top.
func run(t *testing.T, e Engine) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Log.Run(ctx, history.Inbox{}) }()
	e.Log.Watch("t", func(error) {})
	e.Log.Unwatch("t")
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Error("Run does not return")
	}
}
