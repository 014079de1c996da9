package state_test

import (
	"testing"

	"bennu.example/state"
)

// BenchmarkWindow has a change for 1,000 clients with windows, queries or a view: outside of what
// they have, and within.
func BenchmarkWindow(b *testing.B) {
	for _, test := range []struct{ name, params, key string }{
		{"outside", `{"keys":{"first":50}}`, "key009999"},
		{"within", `{"keys":{"first":50}}`, "key000007"},
		{"query that does not match", `{"query":{"name":"over","args":5}}`, "key009999"},
		{"query that matches", `{"query":{"name":"over","args":1}}`, "key009999"},
	} {
		b.Run(test.name, func(b *testing.B) {
			m, _ := filled(b, 10_000)
			o := state.New(m)
			cfg := state.Config{Queries: []state.QueryDef{over}}
			a := gatherBy(b, o.Maps(cfg), 1000, test.params, 2)
			op := []state.Op{{Key: test.key, Value: []byte(`2`)}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := o.Apply(b.Context(), simTopic, op, state.Tx{}); err != nil {
					b.Fatal(err)
				}
				a.workers.Wait()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/session")
		})
	}
}
