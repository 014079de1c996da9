package oncetable

import "fmt"

// IDs returns the number of keys.
func (m *Table) IDs() int { return len(m.ids) }

// Check returns what is inconsistent.
func (m *Table) Check() string {
	bytes, ids, owned := 0, 0, 0
	for _, own := range m.owners {
		owned += own.ids
		if own.ids == 0 || own.ids > MaxIDs || own.done.Len() > own.ids {
			return fmt.Sprintf("owner %s: %+v", own.name, own)
		}
	}
	for _, in := range m.clients {
		weight := 0
		for e := in.done.Front(); e != nil; e = e.Next() {
			id := e.Value.(*tableID)
			weight += id.weight()
			bytes += len(id.reply)
		}
		if ids += in.ids; in.weight != weight || m.heavy[in.index] != in || in.ids == 0 {
			return fmt.Sprintf("client %s: %+v", in.name, in)
		}
	}
	switch {
	case bytes != m.bytes || bytes > m.maxBytes:
		return fmt.Sprintf("%d bytes, counted %d", bytes, m.bytes)
	case ids != len(m.ids) || ids != owned || len(m.due) != ids || ids > m.maxIDs || len(m.heavy) != len(m.clients):
		return fmt.Sprintf("%d ids: %d, %d due", ids, len(m.ids), len(m.due))
	}
	return ""
}
