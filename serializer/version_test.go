package serializer_test

import (
	"testing"

	"bennu.example/serializer"
)

// versioned is a serializer with the given version.
type versioned struct {
	serializer.Serializer
	version string
}

func (v versioned) Version() string { return v.version }

// TestSelect selects from the default serializers.
func TestSelect(t *testing.T) {
	t.Parallel()
	tests := []struct {
		vsn  string
		want string // the version of the serializer; empty if none accepts vsn
	}{
		{"1.0.0", "1.0.0"}, {"1.0.5", "1.0.0"},
		{"2.0.0", "2.0.0"}, {"2.0.1", "2.0.0"}, {"2.0.99", "2.0.0"},
		{"1.1.0", ""}, {"2.1.0", ""}, {"123.1.1", ""}, {"0.9.0", ""}, // no such minor or major version
		{"1", ""}, {"1.0", ""}, {"2.0.0.0", ""}, {"02.0.0", ""}, {"v2.0.0", ""}, {"abc", ""}, {"", ""}, // not a full version
		{"2.0.0-rc.1", ""}, {"1.0.0-beta", ""}, {"2.0.1-rc", "2.0.0"}, {"2.0.0+build", "2.0.0"}, {"2.1.0-rc.1", ""},
		{"3.0.0", "3.0"}, {"3.0.1", "3.0"}, {"3.7.0", "3.0"}, {"3.1.0-rc.1", "3.0"}, {"3.0.0-rc.1", ""}, {"4.0.0", ""},
		{"4.0.0-rc", ""}, {"3.0", ""},
		{"2.0.99999999999999999999999999", "2.0.0"}, {"99999999999999999999999999.0.0", ""},
		{"2.00.0", ""}, {"2.0.01", ""}, {"2..0", ""}, {".0.0", ""}, {"2.0.", ""}, {"2.0.0 ", ""}, {" 2.0.0", ""},
		{"+2.0.0", ""}, {"-2.0.0", ""}, {"2.-1.0", ""}, {"2.0.٣", ""},
		{"2.0.1-", ""}, {"2.0.1-a..b", ""}, {"2.0.1-01", ""}, {"2.0.1-0", "2.0.0"}, {"2.0.1-0a", "2.0.0"},
		{"2.0.1-a_b", ""}, {"2.0.1--", "2.0.0"}, {"2.0.1-é", ""},
		{"2.0.0+", ""}, {"2.0.0+a.b-c", "2.0.0"}, {"2.0.0+a..b", ""}, {"2.0.0+a+b", ""}, {"2.0.0+01", "2.0.0"},
		{"2.0.1-rc+b", "2.0.0"}, {"2.0.0+b-rc", "2.0.0"},
	}
	for _, tt := range tests {
		s, ok := serializer.Select(serializer.Default(), tt.vsn)
		got := ""
		if ok {
			got = s.Version()
		}
		if got != tt.want {
			t.Errorf("Select(%q) = %q, want %q", tt.vsn, got, tt.want)
		}
	}
}

// TestSelectFromList selects from lists with other requirements.
func TestSelectFromList(t *testing.T) {
	t.Parallel()
	tests := []struct {
		list []string
		vsn  string
		want int // the index in list; -1 if none accepts vsn
	}{
		{[]string{"2.0", "2.0.0"}, "2.0.5", 0},
		{[]string{"2.0.0", "2.0"}, "2.0.5", 0},
		{[]string{"2.0.0", "2.0"}, "2.1.5", 1},
		{[]string{"2.0.3"}, "2.0.2", -1},
		{[]string{"2.0.3"}, "2.0.10", 0},
		{[]string{"2.3"}, "2.2.9", -1},
		{[]string{"2.3"}, "2.10.0", 0},
		{[]string{"2.0.0-rc.2"}, "2.0.0-rc.1", -1},
		{[]string{"2.0.0-rc.2"}, "2.0.0-rc.10", 0},
		{[]string{"2.0.0-rc.2"}, "2.0.0-rc", -1},
		{[]string{"2.0.0-rc.2"}, "2.0.0-rc.2.1", 0},
		{[]string{"2.0.0-rc.2"}, "2.0.0-rc.a", 0}, // words are later than numbers
		{[]string{"2.0.0-rc.a"}, "2.0.0-rc.2", -1},
		{[]string{"2.0.0-rc.2"}, "2.0.0-beta", -1},
		{[]string{"2.0.0-rc.2"}, "2.0.0", 0},
		{[]string{"2.0-rc"}, "2.0.0-rc.1", 0},
		{[]string{"2", "two", "", "2.0.0.0", "2.0.0"}, "2.0.0", 4},
		{nil, "2.0.0", -1},
	}
	for _, tt := range tests {
		var list []serializer.Serializer
		for _, v := range tt.list {
			list = append(list, versioned{version: v})
		}
		s, ok := serializer.Select(list, tt.vsn)
		if tt.want < 0 {
			if ok {
				t.Errorf("Select(%q, %q) = %q, want none", tt.list, tt.vsn, s.Version())
			}
		} else if !ok || s.Version() != tt.list[tt.want] {
			t.Errorf("Select(%q, %q) does not select number %d", tt.list, tt.vsn, tt.want)
		}
	}
}

func TestVsn(t *testing.T) {
	t.Parallel()
	want := []string{"1.0.0", "2.0.0", "3.0.0"}
	for i, s := range serializer.Default() {
		got := serializer.Vsn(s)
		if got != want[i] {
			t.Errorf("Vsn of %q is %q, want %q", s.Version(), got, want[i])
		}
		if again, ok := serializer.Select(serializer.Default(), got); !ok || again != s {
			t.Errorf("%q selects another serializer", got)
		}
	}
	if got := serializer.Vsn(versioned{version: "2.1-rc"}); got != "2.1.0-rc" {
		t.Errorf("Vsn of 2.1-rc is %q", got)
	}
}
