package presence_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"bennu.example/presence"
)

// parse parses a state in shorthand: "u1:1,2 u2:3" are two keys and the refs of their metas.
func parse(t *testing.T, short string) (s presence.State) {
	t.Helper()
	if err := json.Unmarshal([]byte(long(short)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func long(short string) string {
	var keys []string
	for _, key := range strings.Fields(short) {
		key, refs, _ := strings.Cut(key, ":")
		var metas []string
		for _, ref := range strings.Split(refs, ",") {
			metas = append(metas, fmt.Sprintf(`{"phx_ref":%q}`, ref))
		}
		keys = append(keys, fmt.Sprintf(`%q:{"metas":[%s]}`, key, strings.Join(metas, ",")))
	}
	return "{" + strings.Join(keys, ",") + "}"
}

func longDiff(joins, leaves string) string {
	return fmt.Sprintf(`{"joins":%s,"leaves":%s}`, long(joins), long(leaves))
}

// short is the inverse of parse.
func short(s presence.State) string {
	var keys []string
	for key, e := range s.All() {
		keys = append(keys, key+":"+refsOf(e))
	}
	return strings.Join(keys, " ")
}

func refsOf(e presence.Entry) string {
	var refs []string
	for _, m := range e.Metas {
		refs = append(refs, m.Ref)
	}
	return strings.Join(refs, ",")
}

// journal records the calls of callbacks.
type journal struct{ lines []string }

func (j *journal) joined(key string, current, joined presence.Entry) {
	j.lines = append(j.lines, fmt.Sprintf("%s [%s] +%s", key, refsOf(current), refsOf(joined)))
}

func (j *journal) left(key string, current, left presence.Entry) {
	j.lines = append(j.lines, fmt.Sprintf("%s [%s] -%s", key, refsOf(current), refsOf(left)))
}

func (j *journal) take() string {
	all := strings.Join(j.lines, "; ")
	j.lines = nil
	return all
}

// TestMerge applies diffs to states (M269 to M273, M276).
func TestMerge(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ state, joins, leaves, want, calls string }{
		"first":              {"", "u1:1", "", "u1:1", "u1 [] +1"},
		"one more":           {"u1:1 u2:2", "u1:3", "", "u1:1,3 u2:2", "u1 [1] +3"},
		"several":            {"", "b:1 a:2,3 c:4", "", "b:1 a:2,3 c:4", "b [] +1; a [] +2,3; c [] +4"},
		"one leaves":         {"u1:1,2 u2:3", "", "u1:1", "u1:2 u2:3", "u1 [2] -1"},
		"the last leaves":    {"u1:1 u2:2", "", "u1:1", "u2:2", "u1 [] -1"},
		"update":             {"u1:1,2 u2:9", "u1:3", "u1:1", "u1:2,3 u2:9", "u1 [1,2] +3; u1 [2,3] -1"},
		"known ref again":    {"u1:1,2", "u1:1", "", "u1:2,1", "u1 [1,2] +1"},
		"unknown key leaves": {"u1:1", "", "u2:1", "u1:1", ""},
		"unknown ref leaves": {"u1:1", "", "u1:2", "u1:1", "u1 [1] -2"},
		"many": {
			"u:1,2,3,4,5,6,7,8,9,10", "u:11", "u:1,2,3,4,5,6,7,8,9", "u:10,11",
			"u [1,2,3,4,5,6,7,8,9,10] +11; u [10,11] -1,2,3,4,5,6,7,8,9",
		},
		"hostile keys": {
			"__proto__:1", "constructor:2 hasOwnProperty:3", "__proto__:1", "constructor:2 hasOwnProperty:3",
			"constructor [] +2; hasOwnProperty [] +3; __proto__ [] -1",
		},
	} {
		var j journal
		s := parse(t, test.state)
		d := presence.Diff{Joins: parse(t, test.joins), Leaves: parse(t, test.leaves)}
		got := presence.Merge(s, d, j.joined, j.left)
		if short(got) != test.want {
			t.Errorf("%s: %q instead of %q", name, short(got), test.want)
		}
		if calls := j.take(); calls != test.calls {
			t.Errorf("%s: called %q instead of %q", name, calls, test.calls)
		}
		if short(s) != test.state || short(d.Joins) != test.joins || short(d.Leaves) != test.leaves {
			t.Errorf("%s: the arguments have changed", name)
		}
		presence.Merge(s, d, nil, nil)
	}
}

// TestSync replaces states by others (M268).
func TestSync(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ state, next, want, calls string }{
		"same":     {"u1:1,2 u2:3", "u1:1,2 u2:3", "u1:1,2 u2:3", ""},
		"first":    {"", "u1:1,2 u2:3", "u1:1,2 u2:3", "u1 [] +1,2; u2 [] +3"},
		"all left": {"u1:1,2 u2:3", "", "", "u1 [] -1,2; u2 [] -3"},
		"common keys": {
			"u1:1,2 u2:3 u4:5", "u1:2,4 u3:6 u4:5", "u1:2,4 u4:5 u3:6",
			"u1 [1,2] +4; u3 [] +6; u2 [] -3; u1 [2,4] -1",
		},
		"another join": {"u1:1", "u1:2", "u1:2", "u1 [1] +2; u1 [2] -1"},
	} {
		var j journal
		s, next := parse(t, test.state), parse(t, test.next)
		got := presence.Sync(s, next, j.joined, j.left)
		if short(got) != test.want {
			t.Errorf("%s: %q instead of %q", name, short(got), test.want)
		}
		if calls := j.take(); calls != test.calls {
			t.Errorf("%s: called %q instead of %q", name, calls, test.calls)
		}
		if short(s) != test.state || short(next) != test.next {
			t.Errorf("%s: the arguments have changed", name)
		}
	}
}

// TestExtra checks that the extra fields of a joining entry replace the previous ones.
func TestExtra(t *testing.T) {
	t.Parallel()
	read := func(raw string) (s presence.State) {
		if err := json.Unmarshal([]byte(raw), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := read(`{"u1":{"metas":[{"phx_ref":"1","n":1}],"user":{"name":"Ann"},"old":1}}`)
	joins := read(`{"u1":{"user":{"name":"Bob"},"metas":[{"phx_ref":"2","n":2}]}}`)
	s = presence.Merge(s, presence.Diff{Joins: joins}, nil, nil)
	raw, err := json.Marshal(s)
	want := `{"u1":{"metas":[{"phx_ref":"1","n":1},{"phx_ref":"2","n":2}],"user":{"name":"Bob"}}}`
	if string(raw) != want || err != nil {
		t.Errorf("%s, %v", raw, err)
	}
	e, _ := s.Get("u1")
	var whole struct {
		User  struct{ Name string }
		Metas []struct {
			N   int
			Ref string `json:"phx_ref"`
		}
	}
	err = e.Decode(&whole)
	if err != nil || whole.User.Name != "Bob" || whole.Metas[1].N != 2 || whole.Metas[1].Ref != "2" {
		t.Errorf("%+v, %v", whole, err)
	}
	if _, err := presence.Metas[[]int](e); err == nil {
		t.Error("an object was decoded into a list")
	}
	if err := e.Decode(new(int)); err == nil {
		t.Error("an object was decoded into a number")
	}
}

// TestParse parses valid and malformed states, diffs, entries and metas.
func TestParse(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`{}`: `{}`,
		` { "a" : { "metas" : [ { "phx_ref" : "1" , "x" : [ 1 , { "y" : "}\"" } ] } ] , "z" : -1.5e3 } } `: `` +
			`{"a":{"metas":[{ "phx_ref" : "1" , "x" : [ 1 , { "y" : "}\"" } ] }],"z":-1.5e3}}`,
		`{"a":{"metas":[]}}`:                                `{"a":{"metas":[]}}`,
		`{"a":{"metas":[{}]}}`:                              `{"a":{"metas":[{}]}}`,
		`{"\u0061\"ž":{"metas":[{"phx_ref":"1"}]}}`:         `{"a\"ž":{"metas":[{"phx_ref":"1"}]}}`,
		`{"a":{"metas":[{"phx_ref":1}]},"a":{"metas":[]}}`:  `{"a":{"metas":[]}}`,
		`{"a":{"metas":[{"phx_ref":null,"Phx_Ref":"no"}]}}`: `{"a":{"metas":[{"phx_ref":null,"Phx_Ref":"no"}]}}`,

		`{"a":{"metas":[1]}}`: "", `{"a":{"metas":{}}}`: "", `{"a":{"metas":null}}`: "", `{"a":{}}`: "", `{"a":[]}`: "",
		`{"a":1}`: "", `[]`: "", `1`: "", `"x"`: "",
	} {
		var s presence.State
		err := json.Unmarshal([]byte(raw), &s)
		if (err == nil) != (want != "") {
			t.Errorf("%s: %v", raw, err)
		}
		if err == nil {
			if got, _ := s.MarshalJSON(); string(got) != want {
				t.Errorf("%s: %s", raw, got)
			}
		}
	}
	var s presence.State
	if json.Unmarshal([]byte(`null`), &s) == nil {
		t.Error("null was parsed as a state")
	}
	for _, raw := range []string{`{"joins":{},"leaves":{}}`, `{"leaves":{},"more":[1,{}],"joins":{}}`} {
		if err := json.Unmarshal([]byte(raw), new(presence.Diff)); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
	for _, raw := range []string{`{"joins":{}}`, `{"leaves":{}}`, `{}`, `[]`, `{"joins":1,"leaves":{}}`} {
		if json.Unmarshal([]byte(raw), new(presence.Diff)) == nil {
			t.Errorf("%s was parsed as a diff", raw)
		}
	}
	for _, raw := range []string{`{"metas":[{}]}`, `{"metas":[]}`} {
		if err := json.Unmarshal([]byte(raw), new(presence.Entry)); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
	var m presence.Meta
	err := json.Unmarshal([]byte(`{"phx_ref":"1","phx_ref_prev":"0","n":7}`), &m)
	if err != nil || m.Ref != "1" || m.PrevRef != "0" {
		t.Errorf("%+v, %v", m, err)
	}
	raw, err := json.Marshal([]any{m, presence.Meta{}, presence.Entry{}, presence.State{}, presence.Diff{}})
	const want = `[{"phx_ref":"1","phx_ref_prev":"0","n":7},{},{"metas":[]},{},{"joins":{},"leaves":{}}]`
	if err != nil || string(raw) != want {
		t.Errorf("%s, %v", raw, err)
	}
}

// TestParseDuplicates parses states in which keys occur twice. The last value is kept, at the
// position of the first.
func TestParseDuplicates(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2, 8, 9, 50} {
		var members, want []string
		for i := range size {
			members = append(members, fmt.Sprintf("%d:1", i))
			want = append(want, fmt.Sprintf("%d:%d", i, 1+i%2))
		}
		for i := 1; i < size; i += 2 {
			members = append(members, fmt.Sprintf("%d:2", i))
		}
		if got := short(parse(t, strings.Join(members, " "))); got != strings.Join(want, " ") {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestOrder checks that keys stay in the order in which they joined while others leave (M274).
func TestOrder(t *testing.T) {
	t.Parallel()
	var s presence.State
	var want []string
	for i := range 2000 {
		key := fmt.Sprint(i * 7919 % 2000)
		s = presence.Merge(s, presence.Diff{Joins: parse(t, key+":x")}, nil, nil)
		want = append(want, key)
		if i%3 > 0 {
			gone := want[i*31%len(want)]
			s = presence.Merge(s, presence.Diff{Leaves: parse(t, gone+":x")}, nil, nil)
			want = slices.DeleteFunc(want, func(k string) bool { return k == gone })
		}
		if s.Len() != len(want) {
			t.Fatalf("%d keys instead of %d", s.Len(), len(want))
		}
	}
	var got []string
	for key := range s.All() {
		got = append(got, key)
		if _, ok := s.Get(key); !ok {
			t.Fatalf("%s is listed but not found", key)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
	for range s.All() {
		break
	}
}

// follow records the callbacks of c.
func follow(c *presence.Client) *journal {
	j := new(journal)
	c.OnJoin(j.joined)
	c.OnLeave(j.left)
	c.OnSync(func() { j.lines = append(j.lines, "sync") })
	return j
}

// TestClient receives states and diffs of several joins (M265 to M267).
func TestClient(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	c := presence.NewLooseClient(zerolog.New(&log))
	j := follow(c)
	step := func(joinRef, event, payload, list, calls string) {
		t.Helper()
		before := short(c.List())
		held := c.List()
		c.Receive(joinRef, event, payload)
		if got := short(c.List()); got != list {
			t.Errorf("%s: list %q instead of %q", payload, got, list)
		}
		if got := j.take(); got != calls {
			t.Errorf("%s: called %q instead of %q", payload, got, calls)
		}
		if short(held) != before {
			t.Errorf("%s: a list that was returned earlier has changed", payload)
		}
	}
	synced := func(want bool) {
		t.Helper()
		if c.Synced() != want {
			t.Errorf("synced: %v", !want)
		}
	}
	const state, diff = presence.EventState, presence.EventDiff
	synced(false)
	step("1", diff, longDiff("u2:2", ""), "", "")
	step("1", diff, longDiff("u3:3", "u1:1"), "", "")
	step("1", "other", `{}`, "", "")
	step("1", state, long("u1:1 u4:4"), "u4:4 u2:2 u3:3", "u1 [] +1; u4 [] +4; u2 [] +2; u3 [] +3; u1 [] -1; sync")
	synced(true)
	step("1", diff, longDiff("u4:5", "u4:4"), "u4:5 u2:2 u3:3", "u4 [4] +5; u4 [5] -4; sync")
	step("1", diff, longDiff("", ""), "u4:5 u2:2 u3:3", "sync")
	step("1", state, long("u4:5 u2:2"), "u4:5 u2:2", "u3 [] -3; sync")

	// After a rejoin, the diffs that were pending in the previous join are dropped.
	step("2", diff, longDiff("ghost:8", ""), "u4:5 u2:2", "")
	synced(false)
	step("3", diff, longDiff("u5:7", "u2:2"), "u4:5 u2:2", "")
	step("3", state, long("u4:6 u2:2"), "u4:6 u5:7", "u4 [5] +6; u4 [6] -5; u5 [] +7; u2 [] -2; sync")
	synced(true)
	if e, ok := c.Get("u5"); !ok || refsOf(e) != "7" {
		t.Error("u5 is not found")
	}
	for key := range c.All() {
		if key != "u4" {
			t.Errorf("the first is %s", key)
		}
		break
	}

	c.Overflow()
	synced(false)
	step("3", diff, longDiff("u6:9", ""), "u4:6 u5:7 u6:9", "u6 [] +9; sync")
	step("3", state, long("u4:6"), "u4:6", "u5 [] -7; u6 [] -9; sync")
	synced(true)

	for _, bad := range []string{`[]`, `{"u1":1}`, `{"u1":{}}`} {
		step("3", state, bad, "u4:6", "")
		step("3", diff, bad, "u4:6", "")
	}
	if n := strings.Count(log.String(), "event ignored"); n != 6 {
		t.Errorf("%d lines in the log", n)
	}
	c.Receive("4", diff, fmt.Sprintf(`{"joins":{},"leaves":{},"x":"%s"}`, strings.Repeat("x", 5<<20)))
	c.Receive("4", diff, longDiff("u9:9", ""))
	step("4", state, long("u4:6"), "u4:6", "sync")
	synced(false) // the diffs may have been newer
	step("4", state, long("u4:6"), "u4:6", "sync")
	synced(true)
	c.Receive("5", diff, fmt.Sprintf(`{"joins":{},"leaves":{},"x":"%s"}`, strings.Repeat("x", 5<<20)))
	c.Receive("6", diff, longDiff("u9:9", "")) // another join, of which no diff is dropped
	step("6", state, long("u4:6"), "u4:6 u9:9", "u9 [] +9; sync")
	synced(true)
}

// TestOff removes callbacks, from outside and from within, and calls List from them.
func TestOff(t *testing.T) {
	t.Parallel()
	c := presence.NewLooseClient(zerolog.Nop())
	var calls []string
	var off func()
	off = c.OnJoin(func(key string, _, _ presence.Entry) {
		calls = append(calls, "first "+key+" of "+fmt.Sprint(c.List().Len()))
		off()
	})
	c.OnJoin(func(key string, _, _ presence.Entry) { calls = append(calls, "second "+key) })
	offSync := c.OnSync(func() { calls = append(calls, "sync") })
	c.Receive("1", presence.EventState, long("a:1 b:2"))
	offSync()
	c.Receive("1", presence.EventDiff, longDiff("c:3", ""))
	if got := strings.Join(calls, "; "); got != "first a of 2; second a; second b; sync; second c" {
		t.Error(got)
	}
}
