package presence_test

import (
	"encoding/json"
	"testing"

	"bennu.example/presence"
)

// FuzzParse compares the parser with encoding/json. No input causes a panic.
func FuzzParse(f *testing.F) {
	for _, raw := range []string{
		`{}`, `[`, `{"a":`, "\"", `{"a":{"metas":[{"a":"\`,
		`{"a":{"metas":[{"phx_ref":"1","x":[1,{"y":"}\""}]}],"user":{"name":"ž\u0000"}},"\u0061":{"metas":[]}}`,
		`{"joins":{"a":{"metas":[{"phx_ref":"1"}]}},"leaves":{}}`, ` { "a" : { "metas" : [ { } , { } ] } } `,
	} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = new(presence.Diff).UnmarshalJSON(data)
		var s presence.State
		if err := s.UnmarshalJSON(data); err != nil || !json.Valid(data) {
			return
		}
		var want map[string]struct {
			Metas []json.RawMessage `json:"metas"`
		}
		if err := json.Unmarshal(data, &want); err != nil {
			return // encoding/json also matches names that differ in case
		}
		if s.Len() != len(want) {
			t.Fatalf("%d keys instead of %d", s.Len(), len(want))
		}
		for key := range s.All() {
			if _, ok := want[key]; !ok {
				t.Fatalf("unexpected key %q", key)
			}
		}
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var again presence.State
		if err := json.Unmarshal(raw, &again); err != nil || short(again) != short(s) {
			t.Fatalf("encoded and parsed again, it differs: %v", err)
		}
	})
}
