//! Files end before 600 lines, functions before 70.

use crate::source::Source;

const FILE_LINES_MAX: usize = 599;
const FUNCTION_LINES_MAX: usize = 69;

/// Busy matches that read better whole: file and function.
const EXCEPTIONS: [(&str, &str); 0] = [];

pub(crate) fn complaints(source: &Source) -> Vec<String> {
    if !source.is_rust() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(format!("{}: {lines} lines; split it by what it does", source.path));
    }
    for function in long_functions(source) {
        if !EXCEPTIONS.contains(&(source.path.as_str(), &function.name)) {
            let place = format!("{}:{}", source.path, function.line);
            found.push(format!("{place}: {} has {} lines; split it", function.name, function.lines));
        }
    }
    found
}

pub(crate) fn stale_exceptions(sources: &[Source]) -> Vec<String> {
    let needed = |(path, name): &&(&str, &str)| {
        let source = sources.iter().find(|source| source.path == *path);
        source.is_some_and(|source| long_functions(source).iter().any(|function| function.name == *name))
    };
    EXCEPTIONS
        .iter()
        .filter(|exception| !needed(exception))
        .map(|(path, name)| format!("{path} {name}"))
        .collect()
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

fn long_functions(source: &Source) -> Vec<Function> {
    let code = source.product_code();
    let mut found = Vec::new();
    for (index, _) in code.match_indices("fn ") {
        let in_word = code[..index].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let name: String =
            code[index + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(length) = (!in_word && !name.is_empty()).then(|| body_end(&code[index..])).flatten() else {
            continue;
        };
        let lines = code[index..index + length].matches('\n').count() + 1;
        if lines > FUNCTION_LINES_MAX {
            found.push(Function { name, line: source.line_of(index), lines });
        }
    }
    found
}

/// Bytes from `fn` to the brace that closes its body; none for a declaration without one.
fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut others) = (0_i32, 0_i32);
    for (index, c) in code.char_indices() {
        match c {
            '(' | '[' => others += 1,
            ')' | ']' => others -= 1,
            ';' if braces == 0 && others == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(index + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::complaints;
    use crate::check;

    #[test]
    fn a_long_function_is_caught() {
        let function = |lines: usize| {
            let body = "    f(\"}\");\n".repeat(lines - 2);
            format!("trait T {{\n    fn short(x: [u8; 2]);\n}}\nfn long() {{\n{body}}}\nfn next() {{}}\n")
        };
        check(complaints, "safekit-user/src/a.rs", &function(69), &[]);
        check(complaints, "safekit-user/src/a.rs", &function(70), &["a.rs:4: long has 70 lines"]);
        let test = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(70));
        check(complaints, "safekit-user/src/a.rs", &test, &[]);
    }

    #[test]
    fn a_long_file_is_caught() {
        check(complaints, "xtask/src/a.rs", &"//\n".repeat(599), &[]);
        check(complaints, "xtask/src/a.rs", &"//\n".repeat(600), &["600 lines"]);
        check(complaints, "README.md", &"a\n".repeat(600), &[]);
    }
}
