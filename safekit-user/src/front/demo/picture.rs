//! What the demo's screen shows, as a value, and how it is drawn. No terminal is needed to test it.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::report::grouped;
use crate::types::snapshot::Verdict;

/// Everything on the screen.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// As one node that answers says; none while nobody does.
    pub verdict: Option<(Verdict, String)>,
    pub nodes: Vec<NodeRow>,
    /// Of all groups together; 0 while unknown.
    pub buckets: u64,
    pub requests: usize,
    pub failed: usize,
    pub retried: usize,
    pub long_alive: usize,
    pub long_broken: usize,
    pub caption: String,
    /// The newest last.
    pub log: Vec<String>,
    pub colours: bool,
}

#[derive(Clone, Debug, Default)]
pub struct NodeRow {
    pub name: String,
    /// UP, WAIT, OFF, …
    pub state: &'static str,
    pub owned: u64,
    pub requests_per_second: usize,
    pub long_connections: usize,
}

/// Colour and fill of a node: who sees no colours sees the pattern and the number.
const LOOKS: [(Color, char); 4] =
    [(Color::Cyan, '█'), (Color::Yellow, '▓'), (Color::Magenta, '▒'), (Color::Green, '░')];
const BAR_WIDTH: u64 = 30;

impl Picture {
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let rows = [
            Constraint::Length(2),
            Constraint::Length(self.nodes.len() as u16 + 1),
            Constraint::Length(3),
            Constraint::Length(2),
            Constraint::Length(3),
            Constraint::Min(1),
            Constraint::Length(1),
        ];
        let [title, nodes, strip, counts, caption, log, keys] = Layout::vertical(rows).areas(frame.area());
        frame.render_widget(self.title(), title);
        frame.render_widget(Paragraph::new(self.node_lines()), nodes);
        frame.render_widget(Paragraph::new(self.strip(strip.width)), strip);
        frame.render_widget(self.counts(), counts);
        let text = Paragraph::new(self.caption.as_str()).style(bold()).wrap(Wrap { trim: true });
        frame.render_widget(text, caption);
        self.draw_log(frame, log);
        let help = "keys: 1 2 3 power of a node   s stop/start cleanly   q quit";
        frame.render_widget(Paragraph::new(help).style(Style::new().add_modifier(Modifier::DIM)), keys);
    }

    fn title(&self) -> Paragraph<'_> {
        let (word, summary, colour) = match &self.verdict {
            Some((verdict, summary)) => {
                let (word, colour) = word(*verdict);
                (word, summary.as_str(), colour)
            }
            None => ("…", "no daemon answers yet", Color::Reset),
        };
        let spans =
            [Span::styled("safekit demo  ", bold()), Span::styled(word, bold().patch(self.colour(colour)))];
        let mut spans = spans.to_vec();
        spans.push(Span::raw(format!("  {summary}")));
        Paragraph::new(Line::from(spans))
    }

    fn node_lines(&self) -> Vec<Line<'_>> {
        self.nodes.iter().enumerate().map(|(index, node)| self.node_line(index, node)).collect()
    }

    fn node_line<'a>(&'a self, index: usize, node: &'a NodeRow) -> Line<'a> {
        let (style, fill) = self.look(index);
        let filled = (node.owned * BAR_WIDTH * 2).checked_div(self.buckets).unwrap_or(0).div_ceil(2);
        let bar: String = std::iter::repeat_n(fill, filled as usize).collect();
        let percent = node.owned as f64 * 100.0 / self.buckets.max(1) as f64;
        Line::from(vec![
            Span::styled(format!("{} {:<4}", index + 1, node.name), style.patch(bold())),
            Span::raw(format!("{:<8}", node.state)),
            Span::styled(format!("{bar:<width$}", width = BAR_WIDTH as usize), style),
            Span::raw(format!(
                "{percent:>6.1} % {:>7} buckets {:>4} req/s {:>4} long",
                grouped(node.owned as usize),
                node.requests_per_second,
                node.long_connections
            )),
        ])
    }

    /// All buckets in one line: each node's part with its number, dots for what nobody owns.
    fn strip(&self, width: u16) -> Vec<Line<'_>> {
        let cells = u64::from(width);
        let mut spans = Vec::new();
        let (mut before, mut drawn) = (0, 0);
        for (index, node) in self.nodes.iter().enumerate() {
            before += node.owned;
            let end = (before * cells).checked_div(self.buckets).unwrap_or(0).min(cells);
            let digit = char::from_digit(index as u32 + 1, 10).unwrap_or('+');
            let part: String = std::iter::repeat_n(digit, end.saturating_sub(drawn) as usize).collect();
            spans.push(Span::styled(part, self.look(index).0));
            drawn = drawn.max(end);
        }
        let nobody: String = std::iter::repeat_n('·', cells.saturating_sub(drawn) as usize).collect();
        spans.push(Span::styled(nobody, bold()));
        let title = if self.buckets == 0 {
            "who owns the buckets".to_owned()
        } else {
            format!("who owns the {} buckets", grouped(self.buckets as usize))
        };
        vec![Line::from(title), Line::from(spans)]
    }

    fn counts(&self) -> Paragraph<'_> {
        Paragraph::new(format!(
            "requests {}   delayed {}   failed {}      long connections {} alive, {} broken",
            grouped(self.requests),
            grouped(self.retried),
            grouped(self.failed),
            self.long_alive,
            self.long_broken
        ))
    }

    fn draw_log(&self, frame: &mut Frame<'_>, area: Rect) {
        // A sentence may take two lines; the newest is to be seen in any case.
        let width = usize::from(area.width.max(1));
        let mut lines: Vec<&str> = Vec::new();
        let mut height = 0;
        for line in self.log.iter().rev() {
            height += line.chars().count().div_ceil(width).max(1);
            if height > usize::from(area.height) {
                break;
            }
            lines.push(line);
        }
        let lines: Vec<Line<'_>> = lines.into_iter().rev().map(Line::from).collect();
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
    }

    fn look(&self, index: usize) -> (Style, char) {
        let (colour, fill) = LOOKS[index % LOOKS.len()];
        (self.colour(colour), fill)
    }

    fn colour(&self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn word(verdict: Verdict) -> (&'static str, Color) {
    match verdict {
        Verdict::Converged => ("CONVERGED", Color::Green),
        Verdict::Converging => ("CONVERGING", Color::Yellow),
        Verdict::Degraded => ("DEGRADED", Color::Yellow),
        Verdict::Split => ("SPLIT", Color::Red),
        Verdict::Down => ("DOWN", Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn text_of(picture: &Picture, width: u16, height: u16) -> (Vec<String>, bool) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| picture.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let coloured = buffer.content.iter().any(|cell| cell.fg != Color::Reset);
        let rows = buffer.content.chunks(usize::from(width));
        let text = rows.map(|row| {
            row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned()
        });
        (text.collect(), coloured)
    }

    fn picture() -> Picture {
        let node = |name: &str, state, owned| NodeRow {
            name: name.to_owned(),
            state,
            owned,
            requests_per_second: 66,
            long_connections: 20,
        };
        Picture {
            verdict: Some((Verdict::Degraded, "n3 is missing".to_owned())),
            nodes: vec![node("n1", "UP", 32_768), node("n2", "UP", 16_384), node("n3", "OFF", 0)],
            buckets: 65_536,
            requests: 1_312,
            failed: 4,
            retried: 3,
            long_alive: 40,
            long_broken: 20,
            caption: "n3 loses its power".to_owned(),
            log: (0..50).map(|line| format!("line {line}")).collect(),
            colours: true,
        }
    }

    #[test]
    fn everything_is_said_without_colours_too() {
        let (text, coloured) = text_of(&Picture { colours: false, ..picture() }, 100, 24);
        assert!(!coloured);
        assert_eq!(text[0], "safekit demo  DEGRADED  n3 is missing");
        assert_eq!(
            text[2],
            "1 n1  UP      ███████████████                 50.0 %  32,768 buckets   66 req/s   20 long"
        );
        assert_eq!(text[7], format!("{}{}{}", "1".repeat(50), "2".repeat(25), "·".repeat(25)));
        assert!(text[9].contains("requests 1,312") && text[9].contains("failed 4"), "{}", text[9]);
        assert!(text[22].contains("line 49"), "{}", text[22]);
        assert!(text_of(&picture(), 100, 24).1);
    }

    #[test]
    fn no_size_of_a_terminal_is_too_small() {
        for (width, height) in [(1, 1), (10, 3), (40, 12), (300, 100)] {
            text_of(&picture(), width, height);
            text_of(&Picture::default(), width, height);
        }
    }
}
