package broker

// ParseProbe and AppendProbe are parseProbe and appendProbe.
var (
	ParseProbe  = parseProbe
	AppendProbe = appendProbe
)

// Reparse takes an envelope apart and makes it again.
func Reparse(data []byte) ([]byte, bool) {
	e, ok := parseEnvelope(data)
	again := append(newEnvelope(e.kind, e.from, len(e.body)), e.body...)
	setEpoch(again, e.epoch)
	return again, ok
}
