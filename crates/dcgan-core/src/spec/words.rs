//! Settings that are one of a few words.

/// A setting that is one of a few words.
pub trait Word: Copy + Send + Sync + 'static {
    /// All values.
    const ALL: &'static [Self];

    /// The word, as flags and files have it.
    fn word(self) -> &'static str;
}

/// Defines a setting that is one of a few words: an enum that implements [`Word`], `Display` and
/// serde's traits.
macro_rules! words {
    (
        $(#[$doc:meta])+
        $name:ident { $($(#[$variant_doc:meta])+ $variant:ident = $word:literal,)+ }
    ) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[derive(serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])+ #[serde(rename = $word)] $variant,)+
        }

        impl $crate::spec::words::Word for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str($crate::spec::words::Word::word(*self))
            }
        }
    };
}
pub(crate) use words;
