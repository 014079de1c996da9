package state_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"bennu.example/serializer"
	"bennu.example/state"
)

// TestHostileValues has values that are hard to handle: many levels, huge numbers, members that
// occur twice. Each write is refused or stored as JSON, and the channel stays.
func TestHostileValues(t *testing.T) {
	t.Parallel()
	nested := func(open, inner, end string, levels int) string {
		return strings.Repeat(open, levels) + inner + strings.Repeat(end, levels)
	}
	var values []string
	for _, levels := range []int{31, 33, 9_000, 12_000} {
		for _, inner := range []string{`{"$inc":1}`, `{"$none":1}`, `null`} {
			values = append(values, nested(`[`, inner, `]`, levels), nested(`{"a":`, inner, `}`, levels))
		}
	}
	for _, number := range []string{
		`1e999`, `-1e-999999999`, strings.Repeat("9", 300), strings.Repeat("9", 20_000),
		"0." + strings.Repeat("0", 20_000) + "1",
		`1e` + strings.Repeat("9", 1_000), `1e308`, `-0`, `9007199254740993`,
	} {
		values = append(values, number, `{"a":{"$inc":`+number+`}}`)
	}
	values = append(values,
		`{"a":1,"a":2}`, `{"a":{"b":1},"a":{"c":2}}`, `{"$inc":1,"$inc":2}`, `{"$inc":1,"\u0024inc":2}`,
		`{"$now":true,"$now":1}`, `{"a":1,"\u0061":2}`,
		`{"`+strings.Repeat("a", 20_000)+`":1}`, `{"\u0000":1}`, `{"\ud800":"\udfff"}`,
		`{`+strings.Repeat(`"a":1,`, 9_000)+`"a":2}`, `[`+strings.Repeat(`{},`, 20_000)+`{}]`,
	)
	for topic, pushes := range map[string][]string{
		"doc:1":  {`put {"value":%s}`, `merge {"value":%s}`},
		"map:1":  {`put {"key":"a","value":%s}`, `merge {"key":"a","value":%s}`, `add {"value":%s}`},
		"list:1": {`insert {"value":%s}`},
		"tree:1": {`put {"key":"","value":%s}`, `merge {"key":"a","value":%s}`, `put {"key":"a/b","value":%s}`},
	} {
		t.Run(topic, func(t *testing.T) {
			t.Parallel()
			store := state.NewMemory(state.MemoryConfig{})
			r := serve(t, state.New(store), state.Config{Allow: allowAll})
			var c *conn
			join := func() {
				c = r.dial()
				c.send(topic, "phx_join", `{}`)
				for {
					text, err := c.ws.Text()
					if err != nil {
						t.Fatal(err)
					}
					if bytes.HasPrefix(text, []byte(`[null,null,"`+topic+`","synced",`)) {
						return
					}
				}
			}
			join()
			for _, value := range values {
				for _, push := range pushes {
					event, payload, _ := strings.Cut(push, " ")
					payload = fmt.Sprintf(payload, value)
					ref := c.send(topic, event, payload)
					frame := fmt.Appendf(nil, `[null,"1",%q,%q,%s]`, topic, event, payload)
					if _, err := serializer.V2().Parse(serializer.OpText, frame); err != nil { // it ends the connection
						join()
						continue
					}
					for reply, answered := fmt.Sprintf(`["1",%q,`, ref), false; !answered; {
						text, err := c.ws.Text()
						if err != nil || bytes.HasPrefix(text, []byte(`["1","1",`)) { // phx_error, or phx_close
							t.Fatalf("%s %.40s…: %.200s, %v", push, value, text, err)
						}
						answered = bytes.HasPrefix(text, []byte(reply))
					}
				}
			}
			p, err := store.Read(t.Context(), topic, state.Range{}, "", 1000)
			if err != nil || len(p.Items) == 0 {
				t.Fatalf("%d items, %v", len(p.Items), err)
			}
			for _, it := range p.Items {
				if !json.Valid(it.Value) {
					t.Errorf("%q is %.60s…", it.Key, it.Value)
				}
			}
		})
	}
}
