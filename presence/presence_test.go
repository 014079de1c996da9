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

// owner is a presence's owner without a channel.
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

// subscriber keeps the diffs of a topic, and the state that they give.
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

// take returns the diffs since the last call, their refs named by their order of appearance.
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

// names gives refs names: "A", "B", …
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

// node is one Presence and a subscriber to the topic.
type node struct {
	*presence.Presence
	*subscriber
	names
	t    *testing.T
	ps   *pubsub.PubSub
	wire *wire  // nil if it is alone
	stop func() // ends its adapter
}

func newNode(t *testing.T, cfg *presence.Config) *node {
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

func (n *node) want(diffs ...string) {
	n.t.Helper()
	if got := n.take(&n.names); !slices.Equal(got, diffs) {
		n.t.Errorf("diffs\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(diffs, "\n  "))
	}
}

// wantList checks the list, and that the diffs have led to it.
func (n *node) wantList(state string) {
	n.t.Helper()
	got := n.wantListOnly(state)
	n.mu.Lock()
	defer n.mu.Unlock()
	if told, _ := json.Marshal(n.state); string(told) != got {
		n.t.Errorf("diffs give\n  %s\nbut the list is\n  %s", told, got)
	}
}

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

// TestTrack is N277, N278 and N283.
func TestTrack(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
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
	n.wantList(`{"u1":{"metas":[{"phx_ref":"A","device":"tab"},{"phx_ref":"C","device":"phone"}]},"u2":{"metas":[{"phx_ref":"B"}]}}`)
	if got := n.Count(topic); got != 2 {
		t.Errorf("%d keys", got)
	}
}

// TestUpdate is N279 and N280.
func TestUpdate(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
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
		t.Errorf("update of what is not tracked: %v", err)
	}
	_, err = presence.ChangeFor(n.Presence, b, topic, "u1", func(*device) { t.Error("changed what is another's") })
	if !errors.Is(err, presence.ErrNotTracked) {
		t.Errorf("change of what is another's: %v", err)
	}
	n.want()
}

// TestUntrack is N281, N282 and N290.
func TestUntrack(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
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
		t.Error("still on the other topic")
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

// TestGet is N284.
func TestGet(t *testing.T) {
	t.Parallel()
	n := newNode(t, nil)
	n.track(new(owner), "1", device{"n": 1})
	n.track(new(owner), "1", device{"n": 2})
	e, ok := n.Get(topic, "1")
	if !ok {
		t.Fatal("not there")
	}
	type meta struct{ N int }
	metas, err := presence.Metas[meta](e)
	if err != nil || !slices.Equal(metas, []meta{{1}, {2}}) {
		t.Errorf("%v, %v", metas, err)
	}
	if _, ok := n.Get(topic, "2"); ok {
		t.Error("there is a 2")
	}
	if _, ok := n.Get("room:8", "1"); ok {
		t.Error("there is a 1 elsewhere")
	}
}

// TestMetas holds what may be a meta.
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
			n := newNode(t, nil)
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

// TestMany holds what one owner tracks under thousands of keys, and what thousands track under one.
func TestMany(t *testing.T) {
	t.Parallel()
	n := newNode(t, &presence.Config{Window: -1})
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
		t.Errorf("updated what is another's: %v", err)
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

// TestRefs is N289.
func TestRefs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 3 {
		n := newNode(t, nil)
		for i := range 1000 {
			ref := n.track(new(owner), fmt.Sprint(i), nil)
			if seen[ref] || !refs.MatchString(`"`+ref+`"`) {
				t.Fatalf("ref %q", ref)
			}
			seen[ref] = true
		}
	}
}

// TestConcurrent holds that diffs of a topic keep their order whoever makes the changes.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]*presence.Config{"plain": nil, "observed": {OnDiff: func(string, presence.Diff, presence.State) {}}} {
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
				if told, list := byKey(n.state), byKey(n.List(topic)); !reflect.DeepEqual(told, list) {
					t.Errorf("diffs give %d keys, the list has %d, and they differ", len(told), len(list))
				}
			})
		})
	}
}

var prevs = regexp.MustCompile(`"phx_ref_prev":"[^"]*",?`)

// byKey is a state without the order of its keys, and without phx_ref_prev: in a diff of several changes it names what the client has
// seen, not what was replaced.
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

// TestClose holds that a closed Presence is quiet, and that Close does not wait for ever.
func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		n := newNode(t, &presence.Config{Fetch: func(ctx context.Context, _ string, _ []string) (map[string]any, error) {
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
