package serializer

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// TestDecodeMap compares the decoding of maps of strings with that of their JSON.
func TestDecodeMap(t *testing.T) {
	t.Parallel()
	type plain struct {
		UserID  string `json:"user_id,omitempty"`
		Reject  any
		Skipped string `json:"-"`
		Dash    string `json:"-,"`
		hidden  string
	}
	type embedded struct{ plain }
	type number struct {
		N int
		S string
	}
	type quoted struct {
		S string `json:",string"`
	}
	type sameFold struct {
		A string `json:"a"`
		B string `json:"A"`
	}
	type text string
	type named struct {
		S json.Number
		A text
	}
	type unusual struct {
		Quote string `json:"a\"b"`
		Sharp string `json:"é"`
	}
	n := 1
	for _, target := range []func() any{
		func() any { return &plain{Skipped: "before", hidden: "before"} },
		func() any { return &plain{Reject: &n} },
		func() any { return &plain{Reject: "before"} },
		func() any { return &embedded{} },
		func() any { return &number{} },
		func() any { return &quoted{} },
		func() any { return &sameFold{} },
		func() any { return &named{} },
		func() any { return &unusual{} },
		func() any { return &time.Time{} },
		func() any { return new(map[string]any) },
		func() any { return new(any) },
		func() any { return new(string) },
		func() any { return (*plain)(nil) },
		func() any { return plain{} },
		func() any { return nil },
	} {
		for _, m := range []map[string]any{
			nil,
			{},
			{"user_id": "7", "vsn": "2.0.0"},
			{"USER_ID": "7", "reject": "1"},
			{"USER_ID": "7", "user_id": "8", "uſer_id": "9"},
			{"uſer_id": "9", "reject": "12345678901234567890"},
			{"user_id": "\xff", "\xff": "x"},
			{"user_id": "a\u2028<&>\x00\"\\", "S": "1", "é": "e", `a"b`: "q", "Quote": "n"},
			{"user_id": nil},
			{"user_id": 7, "reject": map[string]any{"a": "b"}},
			{"reject": []any{"a"}, "user_id": "7"},
			{"other": []any{"a"}, "user_id": "7"},
			{"other": func() {}, "user_id": "7"},
			{"user_id": json.RawMessage("{"), "reject": "1"},
			{"N": "1", "S": "s"},
			{"S": "x"},
			{"S": `"x"`},
			{"a": "1", "A": "2"},
			{"A": "2"},
			{"-": "dash", "Skipped": "x", "Dash": "x", "hidden": "x"},
			{"plain": "x"},
		} {
			got, want := target(), target()
			gotErr := Value(m).Decode(got)
			p, wantErr := Value(m).Encoded()
			if wantErr == nil {
				wantErr = p.Decode(want)
			}
			if !reflect.DeepEqual(got, want) || (gotErr == nil) != (wantErr == nil) {
				t.Errorf("%v in %T: got %+v (%v), want %+v (%v)", m, want, got, gotErr, want, wantErr)
			}
		}
	}
}
