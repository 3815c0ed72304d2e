"""The report: one page of HTML with everything on it. page.py is its text from data (content.py), claims.py the part on
claims, pictures.py its pictures; words.yaml is what a person wrote; template.html, style.css and page.js the rest."""
