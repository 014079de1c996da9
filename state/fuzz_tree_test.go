package state_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"bennu.example/state"
)

// FuzzTreePath puts a value at a path. The keys of the leaves sort as their segments do, and the
// leaves make the value again, without nulls and empty objects.
func FuzzTreePath(f *testing.F) {
	for _, path := range []string{
		"", "a", "a/b", "a-/b", "/", "a//b", "a/", "\x01", "a\x01b", "a\x7f", "\xff", strings.Repeat("a/", 31) + "a",
		strings.Repeat("a/", 32) + "a", strings.Repeat("a", 129), "é/ü", "$a",
	} {
		for _, value := range []string{
			`1`, `null`, `{}`, `{"a":1,"a":2}`, `{"a":{"b":[{"c":1}],"b-":null},"":1}`, `{"a/b":1}`, `{"\u0001":1}`,
			`{"a":{"$inc":1}}`, `{"$a":1,"b":2}`, ` {"a":{"a":{}}} `, `{"\ud800":1}`,
		} {
			f.Add(path, []byte(value))
		}
	}
	f.Fuzz(func(t *testing.T, path string, value []byte) {
		key, again, err := state.ParsePath(path)
		if err != nil {
			checkTreeError(t, err)
			return
		}
		if again != path {
			t.Fatalf("%q became %q", path, again)
		}
		if value = bytes.TrimSpace(value); !json.Valid(value) {
			return
		}
		keys, values, err := state.Leaves(key, value)
		if err != nil {
			checkTreeError(t, err)
			return
		}
		segments := func(key string) []string { return strings.Split(key, state.PathKey("/")) }
		for i, k := range keys {
			if !state.Subtree(key).Has(k) {
				t.Fatalf("%q is not below %q", k, key)
			}
			if _, _, err := state.ParsePath(strings.ReplaceAll(k, state.PathKey("/"), "/")); err != nil {
				t.Fatalf("%q of %q: %v", k, value, err)
			}
			if i == 0 {
				continue
			}
			if slices.Compare(segments(keys[i-1]), segments(k)) >= 0 || keys[i-1] >= k || state.Subtree(keys[i-1]).Has(k) {
				t.Fatalf("%q is before %q", keys[i-1], k)
			}
		}
		if bytes.Contains(value, []byte(`$`)) || bytes.Contains(value, []byte(`\u0024`)) {
			return // a server value is one leaf
		}
		var made any
		for i, k := range keys {
			made = grow(made, segments(k), number(t, values[i]))
		}
		var want any
		if w := pruned(number(t, value)); w != nil {
			want = grow(nil, segments(key), w)
		}
		if key == "" {
			want = pruned(number(t, value))
			if len(keys) == 1 && keys[0] == "" { // a leaf at the root, which addPath refuses
				made = number(t, values[0])
			}
		}
		if !reflect.DeepEqual(made, want) {
			t.Fatalf("%s at %q became %v, want %v", value, path, made, want)
		}
	})
}

func checkTreeError(t *testing.T, err error) {
	t.Helper()
	var limit *state.LimitError
	if !errors.Is(err, state.ErrInvalid) && !errors.As(err, &limit) {
		t.Fatal(err)
	}
}

// grow returns the object with one more value below it.
func grow(object any, path []string, value any) any {
	if len(path) == 0 {
		return value
	}
	m, _ := object.(map[string]any)
	if m == nil {
		m = make(map[string]any)
	}
	m[path[0]] = grow(m[path[0]], path[1:], value)
	return m
}

// pruned returns a value without nulls and empty objects, but in arrays. Nil means that nothing is
// left.
func pruned(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	for name, e := range m {
		if m[name] = pruned(e); m[name] == nil {
			delete(m, name)
		}
	}
	if len(m) == 0 {
		return nil
	}
	return m
}
