package main

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
)

// The colours differ in brightness, so that they are distinguishable without colour.
var colours = map[string]string{"bennu": "#0f766e", "centrifuge": "#c9a227"}

const (
	width    = 760
	barTop   = 60
	barStep  = 58
	labelEnd = 250
	barRoom  = 400
	chart    = 220
	perRow   = 3 // curves
)

// drawSVG draws a pair of bars for each scenario, each pair with its own scale, and below them
// curves of the growth.
func drawSVG(all []measured, curves map[string][]measured) []byte {
	var b bytes.Buffer
	height := barTop + barStep*len(all) + 20
	if len(curves) > 0 {
		height += (chart + 60) * ((len(curves) + perRow - 1) / perRow)
	}
	fmt.Fprint(&b, `<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="13"`)
	fmt.Fprintf(&b, ` viewBox="0 0 %d %d">`, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`, width, height)
	fmt.Fprint(&b, `<text x="20" y="26" font-size="16" font-weight="bold">Server cost (lower is better)</text>`)
	x := 470
	for _, kind := range kinds {
		fmt.Fprintf(&b, `<rect x="%d" y="16" width="12" height="12" fill="%s"/>`, x, colours[kind])
		fmt.Fprintf(&b, `<text x="%d" y="27">%s</text>`, x+18, kind)
		x += 90
	}
	for i, m := range all {
		y := barTop + barStep*i
		unit := "CPU µs per message"
		switch m.scenario.Kind {
		case "idle":
			unit = "kB of memory"
		case "join":
			unit = "CPU µs per join and leave"
		}
		fmt.Fprintf(&b, `<text x="20" y="%d">%s</text>`, y+14, m.scenario.Name)
		fmt.Fprintf(&b, `<text x="20" y="%d" fill="#666" font-size="11">%s</text>`, y+30, unit)
		most := max(m.by["bennu"].figure(m.scenario), m.by["centrifuge"].figure(m.scenario))
		for k, kind := range kinds {
			v := m.by[kind].figure(m.scenario)
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="16" fill="%s"/><text x="%.1f" y="%d">%.2f</text>`,
				labelEnd, y+18*k, barRoom*v/most, colours[kind], labelEnd+barRoom*v/most+6, y+18*k+13, v)
		}
	}
	for i, name := range slices.Sorted(maps.Keys(curves)) {
		drawCurve(&b, 20+i%perRow*245, barTop+barStep*len(all)+30+i/perRow*(chart+60), name, curves[name])
	}
	fmt.Fprint(&b, "</svg>\n")
	return b.Bytes()
}

// drawCurve draws the CPU time per message on two logarithmic axes.
func drawCurve(b *bytes.Buffer, left, top int, name string, all []measured) {
	const w, h = 215, chart - 60
	lo, hi := math.Inf(1), 0.0
	for _, m := range all {
		for _, kind := range kinds {
			lo, hi = min(lo, m.by[kind].figure(m.scenario)), max(hi, m.by[kind].figure(m.scenario))
		}
	}
	at := func(i int, v float64) (x, y float64) {
		span := max(math.Log(hi/lo), 0.01)
		x = float64(left) + float64(w-30)*float64(i)/float64(max(1, len(all)-1))
		return x, float64(top+24) + h*(1-math.Log(v/lo)/span)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-size="12">CPU µs by %s</text>`, left, top, name)
	for _, kind := range kinds {
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, colours[kind])
		for i, m := range all {
			x, y := at(i, m.by[kind].figure(m.scenario))
			fmt.Fprintf(b, "%.1f,%.1f ", x, y)
		}
		fmt.Fprint(b, `"/>`)
		for i, m := range all {
			v := m.by[kind].figure(m.scenario)
			x, y := at(i, v)
			fmt.Fprintf(b, `<text x="%.1f" y="%.1f" font-size="10">%.1f</text>`, x+3, y-4, v)
		}
	}
	for i, m := range all {
		x, _ := at(i, lo)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" font-size="10" fill="#666">%s</text>`, x, top+h+44, m.scenario.Name)
	}
}
