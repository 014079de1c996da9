package broker

// ParseProbe and AppendProbe export parseProbe and appendProbe to tests.
var (
	ParseProbe  = parseProbe
	AppendProbe = appendProbe
)

// Reparse parses an envelope and encodes it again.
func Reparse(data []byte) ([]byte, bool) {
	e, ok := parseEnvelope(data)
	again := append(newEnvelope(e.kind, e.from, len(e.body)), e.body...)
	setEpoch(again, e.epoch)
	return again, ok
}
