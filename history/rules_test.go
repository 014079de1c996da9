package history_test

import (
	"testing"
	"time"

	"bennu.example/history"
)

func TestRulesFor(t *testing.T) {
	t.Parallel()
	rules := history.Rules{
		"room:*":      {Count: 1},
		"room:a:*":    {Count: 2},
		"room:a:exit": {Count: 3},
		"only:*":      {Events: []string{"a", "b"}},
		"none":        {Events: []string{}},
		"*":           {Count: 4, Bytes: 5, Age: 6, MaxReplay: 7},
	}
	if err := rules.Check(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		topic, event string
		count        int // zero: not recorded
	}{
		{"room:", "e", 1}, {"room:1", "e", 1}, {"room:a", "e", 1}, {"room:a:", "e", 2}, {"room:a:exit", "e", 3},
		{"room:a:exits", "e", 2}, {"room", "e", 4}, {"", "e", 4}, {"room:*", "e", 1}, {"*", "e", 4},
		{"only:1", "a", 256}, {"only:1", "b", 256}, {"only:1", "c", 0}, {"none", "a", 0}, {"none1", "a", 4},
		{"room:1", "", 0}, {"room:1", "phx_error", 0}, {"room:1", "presence_diff", 0}, {"room:1", "presence_", 0},
		{"room:1", "$history", 0}, {"room:1", "phx", 1}, {"room:1", "presence", 1}, {"room:1", "disconnect", 1},
	} {
		k, ok := rules.For(test.topic, test.event)
		if k.Count != test.count || ok != (test.count > 0) {
			t.Errorf("%q on %q: got %d, %v, want %d", test.event, test.topic, k.Count, ok, test.count)
		}
	}
	if _, ok := (history.Rules{"a": {}}).For("b", "e"); ok {
		t.Error("a topic without a rule is recorded")
	}
	if _, ok := (history.Rules{"a*": {}}).Rule("b"); ok {
		t.Error("a topic without a rule has one")
	}
}

func TestRulesDefaults(t *testing.T) {
	t.Parallel()
	k, _ := history.Rules{"t": {}}.For("t", "e")
	if k.Count != 256 || k.Bytes != 1<<20 || k.Age != time.Hour || k.MaxReplay != 1000 || k.NoGap {
		t.Errorf("got %+v", k)
	}
	k, _ = history.Rules{"t": {Count: 1, Bytes: 2, Age: 3, MaxReplay: 4, NoGap: true}}.For("t", "e")
	if k.Count != 1 || k.Bytes != 2 || k.Age != 3 || k.MaxReplay != 4 || !k.NoGap {
		t.Errorf("got %+v", k)
	}
}

func TestRulesCheck(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]history.Rules{
		"nil":              nil,
		"star in front":    {"*a": {}},
		"two stars":        {"a**": {}},
		"negative count":   {"a": {Count: -1}},
		"negative bytes":   {"a": {Bytes: -1}},
		"negative age":     {"a": {Age: -1}},
		"negative replay":  {"a": {MaxReplay: -1}},
		"presence_state":   {"a": {Events: []string{"b", "presence_state"}}},
		"presence_diff":    {"a": {Events: []string{"presence_diff"}}},
		"phx_reply":        {"a": {Events: []string{"phx_reply"}}},
		"$history":         {"a": {Events: []string{"$history"}}},
		"the empty event":  {"a": {Events: []string{""}}},
		"one of two rules": {"a": {}, "b": {Count: -1}},
	} {
		if rules.Check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, rules := range []history.Rules{{}, {"": {}}, {"*": {}, "a": {Events: []string{}}}} {
		if err := rules.Check(); err != nil {
			t.Errorf("%v: %v", rules, err)
		}
	}
}
