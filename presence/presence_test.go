package presence_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

const topic = "room:7"

// owner is an Owner without a channel.
type owner struct {
	mu    sync.Mutex
	ended bool
	onEnd []func()
}

func (o *owner) OnEnd(f func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return false
	}
	o.onEnd = append(o.onEnd, f)
	return true
}

func (o *owner) end() {
	o.mu.Lock()
	o.ended = true
	onEnd := o.onEnd
	o.mu.Unlock()
	for _, f := range onEnd {
		f()
	}
}

// subscriber records the diffs of a topic and applies them to a state.
type subscriber struct {
	mu    sync.Mutex
	diffs []string
	state presence.State
}

func (s *subscriber) Deliver(b *pubsub.Broadcast) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.diffs = append(s.diffs, string(b.Payload.Bytes()))
	var d presence.Diff
	if err := b.Payload.Decode(&d); err != nil {
		return err
	}
	s.state = presence.Merge(s.state, d, nil, nil)
	return nil
}

// take returns the diffs since the last call. Their refs are replaced by names.
func (s *subscriber) take(n *names) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	diffs := s.diffs
	s.diffs = nil
	for i := range diffs {
		diffs[i] = n.name(diffs[i])
	}
	return diffs
}

// names replaces refs by "A", "B", …, in the order of their first appearance.
type names struct{ refs []string }

var refs = regexp.MustCompile(`"[A-Za-z0-9_-]{16}"`)

func (n *names) name(s string) string {
	return refs.ReplaceAllStringFunc(s, func(ref string) string {
		i := slices.Index(n.refs, ref)
		if i < 0 {
			i = len(n.refs)
			n.refs = append(n.refs, ref)
		}
		return fmt.Sprintf(`"%c"`, 'A'+i)
	})
}

// node is a Presence and a subscriber of the topic.
type node struct {
	*presence.Presence
	*subscriber
	names
	t    *testing.T
	ps   *pubsub.PubSub
	wire *wire  // nil without a network
	stop func() // stops the adapter
}

// newNode returns a node without a network.
func newNode(t *testing.T, cfg presence.Config) *node {
	t.Helper()
	ps := pubsub.New(nil)
	n := &node{Presence: presence.New(ps, cfg), subscriber: new(subscriber), t: t, ps: ps}
	ps.Subscribe(topic, n.subscriber)
	t.Cleanup(func() {
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) track(o presence.Owner, key string, meta any) string {
	n.t.Helper()
	ref, err := n.TrackFor(o, topic, key, meta)
	if err != nil {
		n.t.Fatal(err)
	}
	return ref
}

// want checks the diffs since the last call.
func (n *node) want(diffs ...string) {
	n.t.Helper()
	if got := n.take(&n.names); !slices.Equal(got, diffs) {
		n.t.Errorf("diffs\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(diffs, "\n  "))
	}
}

// wantList checks the list and compares it with the state that the subscriber computed from the
// diffs.
func (n *node) wantList(state string) {
	n.t.Helper()
	got := n.wantListOnly(state)
	n.mu.Lock()
	defer n.mu.Unlock()
	if fromDiffs, _ := json.Marshal(n.state); string(fromDiffs) != got {
		n.t.Errorf("diffs give\n  %s\nbut the list is\n  %s", fromDiffs, got)
	}
}

// wantListOnly checks the list and returns it as JSON.
func (n *node) wantListOnly(state string) string {
	n.t.Helper()
	raw, err := json.Marshal(n.List(topic))
	if err != nil {
		n.t.Fatal(err)
	}
	if got := n.name(string(raw)); got != state {
		n.t.Errorf("list\n  %s\nwant\n  %s", got, state)
	}
	return string(raw)
}

type device map[string]any

// TestTrack tracks keys on two topics (N277, N278, N283).
func TestTrack(t *testing.T) {
	t.Parallel()
	n := newNode(t, presence.Config{})
	n.wantList(`{}`)
	a, b := new(owner), new(owner)
	ref := n.track(a, "u1", device{"device": "tab"})
	if !refs.MatchString(`"` + ref + `"`) {
		t.Errorf("phx_ref %q", ref)
	}
	n.want(`{"joins":{"u1":{"metas":[{"phx_ref":"A","device":"tab"}]}},"leaves":{}}`)
	if _, err := n.TrackFor(a, topic, "u1", nil); !errors.Is(err, presence.ErrTracked) {
		t.Errorf("tracked twice: %v", err)
	}
	n.track(a, "u2", nil)
	n.track(b, "u1", device{"device": "phone"})
	if _, err := n.TrackFor(a, "room:8", "u1", nil); err != nil {
		t.Error(err)
	}
	n.want(
		`{"joins":{"u2":{"metas":[{"phx_ref":"B"}]}},"leaves":{}}`,
		`{"joins":{"u1":{"metas":[{"phx_ref":"C","device":"phone"}]}},"leaves":{}}`,
	)
	n.wantList(`{"u1":{"metas":[{"phx_ref":"A","device":"tab"},{"phx_ref":"C","device":"phone"}]},` +
		`"u2":{"metas":[{"phx_ref":"B"}]}}`)
	if got := n.Count(topic); got != 2 {
		t.Errorf("%d keys", got)
	}
}

// TestUpdate replaces and changes metas (N279, N280).
func TestUpdate(t *testing.T) {
	t.Parallel()
	n := newNode(t, presence.Config{})
	a, b := new(owner), new(owner)
	n.track(a, "u1", device{"device": "tab"})
	n.track(b, "u2", nil)
	n.take(&n.names)
	ref, err := n.UpdateFor(a, topic, "u1", device{"device": "tab2", "phx_ref": "mine", "phx_ref_prev": "too"})
	if err != nil || n.name(`"`+ref+`"`) != `"C"` {
		t.Errorf("%s, %v", ref, err)
	}
	n.want(`{"joins":{"u1":{"metas":[{"phx_ref":"C","phx_ref_prev":"A","device":"tab2"}]}},` +
		`"leaves":{"u1":{"metas":[{"phx_ref":"A","device":"tab"}]}}}`)
	n.wantList(`{"u1":{"metas":[{"phx_ref":"C","phx_ref_prev":"A","device":"tab2"}]},"u2":{"metas":[{"phx_ref":"B"}]}}`)

	_, err = presence.ChangeFor(n.Presence, a, topic, "u1", func(m *device) {
		if (*m)["phx_ref"] != strings.Trim(n.refs[2], `"`) || (*m)["phx_ref_prev"] == nil {
			t.Errorf("change sees %v", *m)
		}
		(*m)["status"] = "away"
	})
	if err != nil {
		t.Error(err)
	}
	n.want(`{"joins":{"u1":{"metas":[{"phx_ref":"D","phx_ref_prev":"C","device":"tab2","status":"away"}]}},` +
		`"leaves":{"u1":{"metas":[{"phx_ref":"C","phx_ref_prev":"A","device":"tab2"}]}}}`)

	if _, err := n.UpdateFor(a, topic, "u3", nil); !errors.Is(err, presence.ErrNotTracked) {
		t.Errorf("update of a key that is not tracked: %v", err)
	}
	_, err = presence.ChangeFor(n.Presence, b, topic, "u1", func(*device) { t.Error("changed the meta of another owner") })
	if !errors.Is(err, presence.ErrNotTracked) {
		t.Errorf("change of another owner's meta: %v", err)
	}
	n.want()
}

// TestUntrack removes presences one by one, with their owner, and repeatedly (N281, N282, N290).
func TestUntrack(t *testing.T) {
	t.Parallel()
	n := newNode(t, presence.Config{})
	a, b := new(owner), new(owner)
	n.track(a, "u1", nil)
	n.track(b, "u1", nil)
	n.track(b, "u2", nil)
	if _, err := n.TrackFor(b, "room:8", "u2", nil); err != nil {
		t.Error(err)
	}
	n.take(&n.names)
	n.UntrackFor(a, topic, "u1")
	n.UntrackFor(a, topic, "u1")
	n.UntrackFor(a, topic, "never")
	n.want(`{"joins":{},"leaves":{"u1":{"metas":[{"phx_ref":"A"}]}}}`)
	b.end()
	n.want(`{"joins":{},"leaves":{"u1":{"metas":[{"phx_ref":"B"}]},"u2":{"metas":[{"phx_ref":"C"}]}}}`)
	n.wantList(`{}`)
	if n.Count("room:8") != 0 {
		t.Error("still present on the other topic")
	}
	if _, err := n.TrackFor(b, topic, "u1", nil); !errors.Is(err, presence.ErrClosed) {
		t.Errorf("tracked after its end: %v", err)
	}
	n.track(a, "u1", nil)
	n.UntrackAll(a)
	n.UntrackAll(a)
	n.UntrackAll(new(owner))
	n.wantList(`{}`)
}

// TestGet returns the entry of a key (N284).
func TestGet(t *testing.T) {
	t.Parallel()
	n := newNode(t, presence.Config{})
	n.track(new(owner), "1", device{"n": 1})
	n.track(new(owner), "1", device{"n": 2})
	e, ok := n.Get(topic, "1")
	if !ok {
		t.Fatal("not found")
	}
	type meta struct{ N int }
	metas, err := presence.Metas[meta](e)
	if err != nil || !slices.Equal(metas, []meta{{1}, {2}}) {
		t.Errorf("%v, %v", metas, err)
	}
	if _, ok := n.Get(topic, "2"); ok {
		t.Error("found a key that is not present")
	}
	if _, ok := n.Get("room:8", "1"); ok {
		t.Error("found on another topic")
	}
}

// TestMetas tracks valid and invalid metas.
func TestMetas(t *testing.T) {
	t.Parallel()
	type typed struct {
		Status string `json:"status"`
		Ref    string `json:"phx_ref,omitempty"`
	}
	for name, test := range map[string]struct {
		meta any
		want string
	}{
		"nil":         {nil, `{"phx_ref":"A"}`},
		"empty":       {json.RawMessage(` { } `), `{"phx_ref":"A"}`},
		"struct":      {typed{"away", "x"}, `{"phx_ref":"A","status":"away"}`},
		"payload":     {serializer.Value(map[string]int{"a": 1}), `{"phx_ref":"A","a":1}`},
		"hidden ref":  {json.RawMessage(`{"phx\u005fref":"x","a":1}`), `{"phx_ref":"A","a":1}`},
		"ref in text": {device{"text": "phx_ref"}, `{"phx_ref":"A","text":"phx_ref"}`},
		"number":      {1, ""},
		"list":        {[]int{1}, ""},
		"null":        {json.RawMessage("null"), ""},
		"binary":      {serializer.Binary([]byte("{}")), ""},
		"channel":     {device{"c": make(chan int)}, ""},
		"not JSON":    {json.RawMessage(`{"a"`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, presence.Config{})
			_, err := n.TrackFor(new(owner), topic, "k", test.meta)
			if test.want == "" {
				if !errors.Is(err, serializer.ErrPayload) {
					t.Errorf("tracked: %v", err)
				}
				n.wantList(`{}`)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			n.wantList(`{"k":{"metas":[` + test.want + `]}}`)
		})
	}
}

// TestMany has one owner track thousands of keys, and thousands of owners track one key.
func TestMany(t *testing.T) {
	t.Parallel()
	n := newNode(t, presence.Config{Window: -1})
	const many = 2000
	o, others := new(owner), make([]*owner, many)
	for i := range many {
		n.track(o, fmt.Sprint(i), nil)
		others[i] = new(owner)
		n.track(others[i], "guest", device{"n": i})
	}
	if _, err := n.TrackFor(o, topic, "7", nil); !errors.Is(err, presence.ErrTracked) {
		t.Errorf("tracked twice: %v", err)
	}
	if _, err := n.UpdateFor(o, topic, "1999", nil); err != nil {
		t.Error(err)
	}
	if _, err := n.UpdateFor(o, topic, "guest", nil); !errors.Is(err, presence.ErrNotTracked) {
		t.Errorf("updated another owner's meta: %v", err)
	}
	for i := range many {
		n.UntrackFor(o, topic, fmt.Sprint(many-1-i))
		others[(i+many/2)%many].end()
		if i == many-3 {
			e, _ := n.Get(topic, "guest")
			metas, err := presence.Metas[struct{ N int }](e)
			if err != nil || len(metas) != 2 || metas[0].N != many/2-2 || metas[1].N != many/2-1 {
				t.Errorf("%v, %v", metas, err)
			}
		}
	}
	n.wantList(`{}`)
}

// TestRefs checks that refs are unique and well-formed (N289).
func TestRefs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 3 {
		n := newNode(t, presence.Config{})
		for i := range 1000 {
			ref := n.track(new(owner), fmt.Sprint(i), nil)
			if seen[ref] || !refs.MatchString(`"`+ref+`"`) {
				t.Fatalf("ref %q", ref)
			}
			seen[ref] = true
		}
	}
}

// TestConcurrent changes a topic from many goroutines. Its diffs arrive in the order of the
// changes.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]presence.Config{
		"plain":    {},
		"observed": {OnDiff: func(string, presence.Diff, presence.State) {}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, cfg)
				for w := range 8 {
					go func() {
						o := new(owner)
						for i := range 300 {
							key := fmt.Sprint(i % 21)
							switch (i + w) % 4 {
							case 0, 1:
								n.TrackFor(o, topic, key, device{"w": w})
							case 2:
								n.UpdateFor(o, topic, key, device{"w": w, "i": i})
							case 3:
								n.UntrackFor(o, topic, key)
							}
						}
					}()
				}
				synctest.Wait()
				if got, list := byKey(n.state), byKey(n.List(topic)); !reflect.DeepEqual(got, list) {
					t.Errorf("diffs give %d keys, the list has %d, and they differ", len(got), len(list))
				}
			})
		})
	}
}

var prevs = regexp.MustCompile(`"phx_ref_prev":"[^"]*",?`)

// byKey returns the entries of a state without phx_ref_prev, which differs in a diff that merges
// several changes: there it is the ref that clients have received, not the one that was replaced.
func byKey(s presence.State) map[string]string {
	m := map[string]string{}
	for key, e := range s.All() {
		raw, err := json.Marshal(e)
		if err != nil {
			panic(err)
		}
		m[key] = prevs.ReplaceAllString(string(raw), "")
	}
	return m
}

// TestClose closes a Presence while Fetch runs. Close waits until its context ends, and later calls
// fail.
func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		n := newNode(t, presence.Config{Fetch: func(ctx context.Context, _ string, _ []string) (map[string]any, error) {
			<-ctx.Done()
			<-hold
			return nil, nil
		}})
		a := new(owner)
		n.track(a, "u1", nil)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := n.Close(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("close: %v", err)
		}
		if _, err := n.TrackFor(a, topic, "u2", nil); !errors.Is(err, presence.ErrClosed) {
			t.Errorf("track: %v", err)
		}
		if _, err := n.UpdateFor(a, topic, "u1", nil); !errors.Is(err, presence.ErrClosed) {
			t.Errorf("update: %v", err)
		}
		a.end()
		close(hold)
	})
}
