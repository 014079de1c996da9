package history_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"bennu.example/history"
)

func TestPositionText(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"q7hx2c9k-129-0m0a", "0-0-0000", "a-1-zzzz", "0123456789abcdef-9007199254740991-iou1", "a-10-0000",
	} {
		p, err := history.ParsePosition(s)
		if err != nil || p.String() != s || p.IsZero() {
			t.Errorf("%q: %v, %v", s, p, err)
		}
		if q, err := history.NewPosition(p.Epoch(), p.Offset(), p.Tag()); err != nil || p != q || !p.Matches(q) {
			t.Errorf("%q: from its parts %v, %v", s, q, err)
		}
		if len(s) > 38 {
			t.Errorf("%q has %d bytes", s, len(s))
		}
		if p.IsBeginning() != strings.HasSuffix(s, "0000") {
			t.Errorf("%q is a beginning: %v", s, p.IsBeginning())
		}
	}
	for _, s := range []string{
		"", "-", "--", "a-1", "a-1-", "-1-abcd", "a--abcd", "a-1-abc", "a-1-abcde", "a-01-abcd", "a-+1-abcd", "a--1-abcd",
		"a-1-abcd-", "A-1-abcd", "a-1-ABCD", "a-1-ab_d", "ž-1-abcd", "a-1-????", "0123456789abcdefg-1-abcd",
		"a-9007199254740992-abcd", "a-18446744073709551616-abcd", " a-1-abcd", "a-1-abcd ", "a-0x1-abcd", "a-1_0-abcd",
		strings.Repeat("0", 1000), "0123456789abcdef-09007199254740991-abcd",
	} {
		if p, err := history.ParsePosition(s); !errors.Is(err, history.ErrPosition) || !p.IsZero() || len(err.Error()) > 200 {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
}

func TestPositionAsJSON(t *testing.T) {
	t.Parallel()
	type stored struct{ At, Never history.Position }
	p, err := history.ParsePosition("q7hx2c9k-129-0m0a")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(stored{At: p})
	if err != nil || string(raw) != `{"At":"q7hx2c9k-129-0m0a","Never":""}` {
		t.Errorf("got %s, %v", raw, err)
	}
	back := stored{Never: p}
	if err := json.Unmarshal(raw, &back); err != nil || back != (stored{At: p}) {
		t.Errorf("got %+v, %v", back, err)
	}
	for _, bad := range []string{`{"At":"x"}`, `{"At":"` + strings.Repeat("x", 1000) + `"}`} {
		if err := json.Unmarshal([]byte(bad), &back); !errors.Is(err, history.ErrPosition) || back.At != p {
			t.Errorf("%s: %v, %v", bad, back.At, err)
		}
	}
}

func TestPositionWithUnknownTag(t *testing.T) {
	t.Parallel()
	p, err := history.NewPosition("e", 3, "")
	if err != nil || p.Tag() != "" || p.String() != "e-3-????" || p.IsBeginning() || p.IsZero() {
		t.Fatalf("got %v, %v", p, err)
	}
	for s, want := range map[string]bool{"e-3-abcd": true, "e-3-0000": true, "e-4-abcd": false, "f-3-abcd": false} {
		q, err := history.ParsePosition(s)
		if err != nil || p.Matches(q) != want || q.Matches(p) {
			t.Errorf("%s: %v; %v", s, p.Matches(q), err)
		}
	}
	for _, bad := range []struct {
		epoch  string
		offset uint64
		tag    string
	}{
		{"", 1, "abcd"}, {"e", 1 << 53, "abcd"}, {"e", 1, "abc"}, {"e", 1, "?bcd"}, {"E", 1, ""},
		{strings.Repeat("e", 17), 1, ""},
	} {
		p, err := history.NewPosition(bad.epoch, bad.offset, bad.tag)
		if !errors.Is(err, history.ErrPosition) || !p.IsZero() {
			t.Errorf("%+v: %v, %v", bad, p, err)
		}
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	seen := map[rune]bool{}
	for range 2000 {
		tag := history.NewTag()
		p, err := history.NewPosition("e", 1, tag)
		if err != nil || p.IsBeginning() || strings.ContainsAny(tag, "ilou") {
			t.Fatalf("tag %q: %v", tag, err)
		}
		for _, c := range tag {
			seen[c] = true
		}
	}
	if len(seen) != 32 {
		t.Errorf("2,000 tags have %d characters, want 32", len(seen))
	}
}

func TestParsePositionAllocations(t *testing.T) {
	s := "0123456789abcdef-9007199254740991-iou1"
	if n := testing.AllocsPerRun(100, func() { _, _ = history.ParsePosition(s) }); n > 1 {
		t.Errorf("%v allocations, want 1: the epoch", n)
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add("q7hx2c9k-129-0m0a")
	f.Add("0-0-0000")
	f.Add("0123456789abcdef-9007199254740991-iou1")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := history.ParsePosition(s)
		if (err == nil) != (p.String() == s && s != "") || len(p.String()) > 38 || err != nil && !p.IsZero() {
			t.Errorf("%q was parsed as %q, %v", s, p, err)
		}
	})
}
