package chromium

// Media makes the page believe that a media feature has a value, for example that
// prefers-color-scheme is dark. Other features get their usual values.
func (p *Page) Media(feature, value string) {
	p.b.t.Helper()
	p.b.must(p.session, "Emulation.setEmulatedMedia", map[string]any{
		"features": []map[string]string{{"name": feature, "value": value}},
	}, nil)
}
